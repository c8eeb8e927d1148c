"""The README's "Serve" block, run as it stands but for its ports."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from saved_models import ROOT, free_port

# Before the block: what "Use a trained model" leaves (an export, a job in the background), and a strict curl.
BEFORE = """
set -em
trap 'kill $(jobs -p)' EXIT
curl() {{ command curl --silent --show-error --fail "$@"; }}
{export}
sleep 600 &
"""
# After it: the server that it has started, which must have lived until here.
AFTER = """
kill $!
wait $!
trap - EXIT
"""


def _block(section: str) -> str:
    """The first block of shell commands in a section of README.md."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    body = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found = re.search(r"^```sh\n(.*?)^```$", body, re.DOTALL | re.MULTILINE)
    assert found, f"README.md has no commands under {section}"
    return found[1]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("curl") or not shutil.which("bash"), reason="needs curl and bash")
def test_the_serve_block_does_what_it_says(tmp_path: Path) -> None:
    found = re.search(r"^python -m serving\.export_main --pretrained.*$", _block("Use a trained model"), re.M)
    assert found
    block = _block("Serve")
    for port in sorted(set(re.findall(r"\b8\d\d\d\b", block))):
        block = re.sub(rf"\b{port}\b", str(free_port()), block)
    script = BEFORE.format(export=found[0]) + block + AFTER
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "no_proxy": "127.0.0.1",
    }
    with (tmp_path / "log").open("wb") as log:
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=log,
            text=True, timeout=300,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + (tmp_path / "log").read_text()
    assert '"outputs": ' in done.stdout
    assert '"state": "AVAILABLE"' in done.stdout
    assert '"ready": true' in done.stdout
