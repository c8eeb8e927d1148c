"""The distribution atelier-zoo: ../setup.py, asked for the other half."""

import os
import pathlib
import runpy

ROOT = pathlib.Path(__file__).resolve().parent.parent

os.environ["ATELIER_DISTRIBUTION"] = "zoo"
os.chdir(ROOT)  # its packages lie beside this one
runpy.run_path(str(ROOT / "setup.py"))
