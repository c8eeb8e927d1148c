"""What the demo does around the stages; the stages have tests of their own."""

import pathlib
import subprocess
import sys

import pytest

from serving import demo_main

ROOT = pathlib.Path(__file__).resolve().parent.parent


def test_only_what_a_demo_made_is_removed(tmp_path):
    presets = ("gan_digits", "cnn_digits")
    made = [tmp_path / parent / preset for parent in ("runs", "models") for preset in presets]
    kept = [tmp_path / "runs" / "mine", tmp_path / "models" / "gan_fashion", tmp_path / "notes"]
    for folder in [*made, *kept]:
        (folder / "1").mkdir(parents=True)
    demo_main.clear(tmp_path)
    assert not any(folder.exists() for folder in made)
    assert all((folder / "1").is_dir() for folder in kept)
    demo_main.clear(tmp_path)  # nothing there is fine too


STAGE = r"""
import sys
print("the bar")
sys.stderr.write('''WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795227669.312597   21202 port.cc:153] oneDNN custom operations are on.
To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow.
W0000 00:00:1795227669.312977   21202 gpu_device.cc:2342] Cannot dlopen some GPU libraries.
E0000 00:00:1795227695.685588   21284 cuda_platform.cc:52] failed call to cuInit: INTERNAL
E0000 00:00:1795227695.685588   21284 saver.cc:1] the disk is full
a warning that says I0000 and cuda
error: no newline''')
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Makes `python -m chatty_stage <status>` a binary."""
    (tmp_path / "chatty_stage.py").write_text(STAGE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "chatty_stage"


def test_a_stage_s_errors_pass_and_tensorflow_s_chatter_does_not(stage, capfd):
    demo_main.run_stage(stage, "0")
    out, err = capfd.readouterr()
    assert out.endswith("the bar\n")
    assert err.splitlines() == [
        "E0000 00:00:1795227695.685588   21284 saver.cc:1] the disk is full",
        "a warning that says I0000 and cuda",
        "error: no newline",
    ]


def test_a_stage_that_failed_ends_the_demo_with_its_status(stage):
    with pytest.raises(SystemExit) as raised:
        demo_main.run_stage(stage, "3")
    assert raised.value.code == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stray"], "unexpected argument 'stray'"),
        (["--nope=1"], "nope"),
        (["--out_dir=file"], "file"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, tmp_path):
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "serving.demo_main", *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
