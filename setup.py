"""Atelier: a model zoo with a production line, from data to a served model.

`pip install .` is the thin client with its tools: under 1 MB, no TensorFlow. Everything else is an extra:
`pip install '.[train]'`, `[serve]`, `[bench]`, `[dev]`, `[all]`.

An extra can add distributions, not files, so this checkout makes two. `atelier` holds the client's modules
of `serving`; `atelier-zoo` (zoo/setup.py, which runs this file) holds all else, weights included, and is
what the extras `train` and `serve` depend on, by its path. In an editable install (`make setup`) `atelier`
is the whole checkout, and there is no second one.
"""

import os
import pathlib
import tempfile

import setuptools
from setuptools.command.build_py import build_py

BASE = [
    "absl-py>=2.1",
    "grpcio>=1.74,<2",
    "numpy>=1.26,<3",
    "protobuf>=6.31.1,<8",  # serving/wire_pb2.py is generated for 6.31.1
]
TENSORFLOW = ["h5py>=3.11", "keras>=3.12,<4", "tensorflow>=2.20,<2.22"]
MUSIC = ["mido>=1.3,<2"]  # MIDI files
VIDEO = ["av>=14,<19"]  # films: PyAV brings FFmpeg's libraries
TRAIN = [
    *TENSORFLOW,
    *MUSIC,
    *VIDEO,
    "importlib_resources>=6",  # tensorflow-datasets imports it and forgets to declare it
    "ml_collections>=1.1,<2",
    "Pillow>=11",
    "PyYAML>=6",
    "rich>=13",
    "scikit-image>=0.25",  # the denoisers that evaluation compares with
    "scikit-learn>=1.5,<2",  # digits, baselines
    "tensorboard>=2.20,<2.22",  # tensorflow 2.21 no longer brings it
    # The stable package: the newest tfds-nightly is older and breaks with protobuf 7.
    "tensorflow-datasets>=4.9.10,<5",
]
SERVE = [
    *TENSORFLOW,
    *MUSIC,
    "flatbuffers>=24",
    "grpcio-health-checking>=1.74,<2",
    "grpcio-reflection>=1.74,<2",
    "httptools>=0.6",
    "Pillow>=11",
    "PyYAML>=6",
    "starlette>=0.46,<2",
    "tensorflow-serving-api>=2.20,<2.22",  # pulls tensorflow by name: never in the client's base
    "uvicorn>=0.47,<1",
]
DEV = [
    "grpcio-tools>=1.74,<2",
    "jsonschema>=4.23",
    "kubernetes-validate>=1.37",
    "mypy>=1.15",
    "pytest-xdist>=3.6",
    "pytest>=8.3",
    "ruff>=0.9",
    "types-protobuf>=6.30",
    "types-PyYAML>=6",
]
# Not part of `all`: from PyPI, torch pulls gigabytes of CUDA that no test needs.
BENCH = ["torch==2.13.0"]

ROOT = pathlib.Path(__file__).resolve().parent
# zoo/setup.py sets the first, backend.py the second.
IS_ZOO = os.environ.get("ATELIER_DISTRIBUTION") == "zoo"
IS_EDITABLE = os.environ.get("ATELIER_EDITABLE") == "1"

# The modules of `serving` that need the base install alone; tests/test_serving_install.py imports each there.
CLIENT = {
    *("__init__", "aio", "calls", "canary", "channels", "client", "errors", "messages", "methods", "music"),
    *("png", "retries", "rpc", "schema", "tensors", "wire", "wire_pb2"),
    *("client_main", "inputs", "outputs"),
    *("bench_main", "load", "load_plot", "random_inputs"),
    *("doctor", "doctor_main", "doctor_rest", "golden", "golden_pb2"),
    # They also run TensorFlow Serving.
    *("config_pb2", "engine", "launch", "lean_import", "models_pb2", "server_main"),
}
CLIENT_SCRIPTS = [
    "atelier-client=serving.client_main:main",
    "atelier-bench=serving.bench_main:main",
    "atelier-doctor=serving.doctor_main:main",
    "atelier-serve=serving.server_main:main",
]
ZOO_SCRIPTS = [
    "atelier-train=train.main:run",
    "atelier-evaluate=train.evaluate_main:run",
    "atelier-pipeline=train.pipeline_main:run",
    "atelier-train-cluster=train.cluster_main:run",
    "atelier-stylize=train.stylize_main:run",
    "atelier-export=serving.export_main:run",
    "atelier-push=serving.push_main:run",
    "atelier-deploy=serving.deploy_main:main",
]
# By its path: the package index may know another one by this name.
ZOO = [] if IS_EDITABLE else [f"atelier-zoo @ {(ROOT / 'zoo').as_uri()}"]
PACKAGES = ["serving", "train", "train.data", "train.metrics", "train.presets", "zoo"]
DATA = {
    "serving": ["deploy/*"],
    "train": ["metrics/judges/*/*"],
    "zoo": ["weights/*/*"],
}


class BuildPy(build_py):
    """Divides the modules of `serving` between the two distributions; zoo/setup.py is in none."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        modules = super().find_package_modules(package, package_dir)
        if package == "serving" and not IS_EDITABLE:
            return [module for module in modules if (module[1] in CLIENT) != IS_ZOO]
        return [module for module in modules if (package, module[1]) != ("zoo", "setup")]


# Not in the checkout: setuptools packs all that an earlier build left in build/.
scratch = tempfile.TemporaryDirectory(prefix="atelier_build_")
common = {
    "version": "0.1.0",
    "license": "Apache-2.0",
    "python_requires": ">=3.11,<3.14",
    "cmdclass": {"build_py": BuildPy},
    "options": {"build": {"build_base": scratch.name}, "egg_info": {"egg_base": scratch.name}},
    "include_package_data": False,
}
if IS_ZOO:
    setuptools.setup(
        name="atelier-zoo",
        description="Atelier's models, trainer, exporter and model server; see atelier[all].",
        packages=PACKAGES,
        package_data=DATA,
        exclude_package_data={"serving": ["*.pyi"]},  # they are the client's
        install_requires=["atelier==0.1.0"],
        entry_points={"console_scripts": ZOO_SCRIPTS},
        **common,
    )
else:
    setuptools.setup(
        name="atelier",
        description="A model zoo with a production line: train, judge, export, serve, call.",
        packages=PACKAGES if IS_EDITABLE else ["serving"],
        package_data=DATA if IS_EDITABLE else {},
        install_requires=BASE,
        extras_require={
            "train": [*ZOO, *TRAIN],
            "serve": [*ZOO, *SERVE],
            "music": MUSIC,
            "bench": BENCH,
            "dev": DEV,
            "all": [*ZOO, *TRAIN, *SERVE, *DEV],
        },
        entry_points={"console_scripts": CLIENT_SCRIPTS + (ZOO_SCRIPTS if IS_EDITABLE else [])},
        **common,
    )
