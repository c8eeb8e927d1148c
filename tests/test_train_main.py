"""The training binary as people meet it: real runs, kills, resumes and mistakes."""

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import time

import numpy as np
import pytest
import tensorflow as tf
from binaries import Running, losses, run_main
from PIL import Image

pytest_plugins = ["saved_models"]  # base_install
LICENSE = ["--config.data.name=text:LICENSE", "--config.data.length=16"]
QUICK = [
    "--config.steps=60",
    "--config.steps_per_execution=4",
    "--config.log_every=5",
    "--config.eval_every=20",
    "--config.preview_every=30",
    "--config.checkpoint_every=10",
]
TINY = {
    "cnn_digits": [*QUICK, "--config.model.stem=4", "--config.model.widths=(8,8)"],
    "gan_digits": [*QUICK, "--config.model.channels=8", "--config.model.latent_dim=8"],
}


def train(*flags, **options):
    return run_main("train.main", *flags, **options)


def kill_at(step, *flags, number=signal.SIGKILL, status=-signal.SIGKILL):
    """Runs the binary and sends it a signal once it has logged a step; returns what it told."""
    workdir = pathlib.Path(next(f for f in flags if f.startswith("--workdir=")).split("=", 1)[1])
    process = Running("train.main", *flags)
    metrics = workdir / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while f'"step": {step},' not in (metrics.read_text() if metrics.exists() else ""):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, number)
    ended = process.ends()
    assert ended.returncode == status, ended.stderr
    return ended.stderr


def state(workdir, step):
    """Everything in a checkpoint but the time it took: weights, optimizers, means."""
    reader = tf.train.load_checkpoint(str(workdir / "checkpoints" / f"ckpt-{step}"))
    names = [n for n in reader.get_variable_to_shape_map() if "VARIABLE_VALUE" in n]
    return {
        n: reader.get_tensor(n).tobytes() for n in names if not n.startswith(("seconds/", "save_counter/"))
    }


# Two optimizers and batch statistics. test_train_loop resumes a run of every family.
def test_a_run_killed_five_times_repeats_an_uninterrupted_one_to_the_bit(run, tmp_path):
    flags = ["--config=gan_digits", *TINY["gan_digits"]]
    whole, killed = run[0], tmp_path / "killed"
    for step in sorted(random.Random(0).sample(range(15, 60, 5), 5)):
        kill_at(step, *flags, f"--workdir={killed}")
    done = train(*flags, f"--workdir={killed}")
    assert done.returncode == 0, done.stderr
    assert state(killed, 60) == state(whole, 60)
    assert losses(killed) == losses(whole)
    assert {p.name for p in (killed / "previews").iterdir()} == {
        p.name for p in (whole / "previews").iterdir()
    }
    for picture in (whole / "previews").iterdir():
        assert picture.read_bytes() == (killed / "previews" / picture.name).read_bytes()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_has_saved_where_it_was_and_goes_on_from_there(run, number, status, tmp_path):
    flags = ["--config=gan_digits", *TINY["gan_digits"], f"--workdir={tmp_path / 'w'}"]
    told = kill_at(15, *flags, number=number, status=status)
    step = int(re.search(rf"stopped by {number.name} after step (\d+), which is saved", told)[1])
    assert (tmp_path / "w" / "checkpoints" / f"ckpt-{step}.index").exists()
    done = train(*flags)
    assert done.returncode == 0, done.stderr
    assert state(tmp_path / "w", 60) == state(run[0], 60)
    assert losses(tmp_path / "w") == losses(run[0])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished tiny run; tests copy what they damage."""
    workdir = tmp_path_factory.mktemp("run") / "gan"
    done = train("--config=gan_digits", *TINY["gan_digits"], f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    return workdir, done.stdout


def test_a_run_leaves_what_the_design_says(run):
    workdir, stdout = run
    names = {p.name for p in workdir.iterdir()}
    assert {"config.json", "checkpoints", "metrics.jsonl", "previews", "card.json"} <= names
    assert any(n.startswith("events.out.tfevents") for n in names)
    card = json.loads((workdir / "card.json").read_text())
    assert card["steps"] == 60
    assert 0 < card["wall_seconds"] < 300
    config = json.loads((workdir / "config.json").read_text())
    assert (card["model"], card["seed"]) == (config["model"], config["seed"])
    assert card["data"]["train_images"] + card["data"]["test_images"] == 1797
    assert "--config=gan_digits" in card["command"]
    steps = [x["step"] for x in losses(workdir) if "generator_loss" in x]
    assert steps == list(range(5, 61, 5))
    assert "step 60/60" in stdout
    assert "ETA" in stdout


def test_a_finished_run_is_not_run_again(run):
    workdir, _ = run
    before, card = losses(workdir), json.loads((workdir / "card.json").read_text())
    done = train("--config=gan_digits", *TINY["gan_digits"], f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert losses(workdir) == before
    assert json.loads((workdir / "card.json").read_text()) == card


def fails(*flags, **options):
    """stderr of a run that must end with exactly one clear line."""
    done = train(*flags, **options)
    assert done.returncode not in (0, -signal.SIGKILL)
    assert "Traceback" not in done.stderr
    told = [x for x in done.stderr.splitlines() if x.startswith("error: ")]
    assert len(told) == 1, done.stderr
    return told[0]


def test_another_configuration_is_refused_and_nothing_is_lost(run):
    workdir, _ = run
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    told = fails("--config=gan_digits", "--config.seed=7", *TINY["gan_digits"], f"--workdir={workdir}")
    assert "config.seed: 0 → 7" in told
    assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before


def test_a_truncated_checkpoint_names_itself_and_the_older_one(run, tmp_path):
    workdir = tmp_path / "gan"
    subprocess.run(["cp", "-r", str(run[0]), str(workdir)], check=True)
    data = workdir / "checkpoints" / "ckpt-60.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    flags = ["--config=gan_digits", *TINY["gan_digits"], f"--workdir={workdir}"]
    told = fails(*flags)
    assert "ckpt-60 cannot be read" in told
    assert "to go on from ckpt-50" in told
    for path in (workdir / "checkpoints").glob("ckpt-60.*"):
        path.rename(tmp_path / path.name)
    done = train(*flags)
    assert done.returncode == 0, done.stderr
    assert losses(workdir) == losses(run[0])


@pytest.mark.parametrize("lost", ["", None])
def test_a_run_whose_index_of_checkpoints_is_lost_goes_on_from_the_newest(run, lost, tmp_path):
    workdir = tmp_path / "gan"
    subprocess.run(["cp", "-r", str(run[0]), str(workdir)], check=True)
    for path in (workdir / "checkpoints").glob("ckpt-60.*"):
        path.unlink()
    index = workdir / "checkpoints" / "checkpoint"
    index.unlink() if lost is None else index.write_text(lost)
    done = train("--config=gan_digits", *TINY["gan_digits"], f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert "step 55/60" in done.stdout and "step 50/60" not in done.stdout
    assert losses(workdir) == losses(run[0])


def test_a_full_disk_is_one_line_and_the_last_good_checkpoint_stays(run, tmp_path):
    workdir = tmp_path / "gan"
    subprocess.run(["cp", "-r", str(run[0]), str(workdir)], check=True)
    for path in (workdir / "checkpoints").glob("ckpt-60.*"):
        path.unlink()
    kept = (workdir / "checkpoints" / "ckpt-50.data-00000-of-00001").read_bytes()
    told = fails(
        "--config=gan_digits",
        *TINY["gan_digits"],
        f"--workdir={workdir}",
        file_size=30_000,
    )
    assert "ckpt" in told or "checkpoint" in told
    assert (workdir / "checkpoints" / "ckpt-50.data-00000-of-00001").read_bytes() == kept
    done = train("--config=gan_digits", *TINY["gan_digits"], f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    assert losses(workdir) == losses(run[0])


def test_a_loss_that_is_not_finite_names_itself_and_the_step(tmp_path):
    told = fails(
        "--config=cnn_digits",
        *TINY["cnn_digits"],
        "--config.optimizer.learning_rate=1e38",
        f"--workdir={tmp_path / 'w'}",
    )
    assert "loss is not finite at step " in told
    step = int(told.split("at step ")[1].split(";")[0])
    logged = losses(tmp_path / "w") if (tmp_path / "w" / "metrics.jsonl").exists() else []
    assert all(x["step"] < step for x in logged)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--config=gan_fashon"], ["unknown preset 'gan_fashon'", "did you mean gan_fashion"]),
        (["--config=gan_digits", "--config.stepz=3"], ["config.stepz=3", "config.steps (int)"]),
        (
            ["--config=gan_digits", "--config.model.chanels=3"],
            ["config.model.chanels=3", "config.model.channels (int)"],
        ),
        (["--config=gan_digits", "--config.steps=many"], ["config.steps=many", "(int)"]),
        (
            ["--config=gan_digits", "--config.model.loss=wgan"],
            ["wasserstein", "config.model.loss"],
        ),
        (["--config=gan_digits", "--config.steps=0"], ["config.steps=0"]),
        (["--config=gan_digits", "--config.eval_every=150"], ["config.eval_every=150", "multiple"]),
        (["--config=gan_digits", "--config.data.name=digitz"], ["digitz", "digits"]),
        (["--config=gan_digits", "--config.model.channels=(8"], ["channels=(8", "(int)"]),
        (["--config=cnn_digits", "--config.model.widths=abc"], ["config.model.widths", "tuple of int"]),
        (["--config=cnn_digits", "--config.model.image_shape=(8,8,1)"], ["the data decides"]),
        (["--config=gan_digits", "--config.family=cnn"], ["config.family=cnn"]),
        (["--config=gan_digits", "--config.name=../x"], ["config.name='../x'"]),
        (["--config=gan_digits", "--config.optimizer.beta_1=3"], ["beta_1=3"]),
        (["--config.steps=3"], ["--config=<preset> is required", "gan_digits"]),
        (["--config=gan_digits", "--strategy=tpus"], ["tpus", "mirrored"]),
        (["--config=gan_digits", "--strategy=tpu"], ["no TPU", "--tpu"]),
        (
            ["--config=gan_digits", "--strategy=tpu", "--tpu=grpc://127.0.0.1:1"],
            ["no TPU", "grpc://127.0.0.1:1", "refused"],
        ),
        (["--config=gan_digits", "--strategy=parameter_server"], ["parameter_server", "multi_worker"]),
        (["--config=gan_digits", "--config.data.batch_size=5000"], ["5000"]),
        (["--config=gan_digits", "stray"], ["stray"]),
        (["--config=cnn_digits", "--config.model.label_smoothing=2"], ["label_smoothing=2"]),
        (["--config=rnn_lyrics", *LICENSE, "--config.mixed_precision=bfloat16"], ["rnn learns in float32"]),
        (["--config=gan_digits", "--profile_steps=9,3"], ["--profile_steps=9,3", "two steps"]),
        (
            ["--config=gan_digits", *TINY["gan_digits"], "--profile_steps=50,70"],
            ["--profile_steps=50,70", "from step 0 to 60"],
        ),
        (["--config=gan_digits", "--config.keep_best=accuracy"], ["keep_best='accuracy'", "generator_loss"]),
        (["--config=gan_digits", "--strategy=parameter_server"], ["refused", "multi_worker"]),
    ],
    ids=lambda v: " ".join(v) if v and v[0].startswith("--") else None,
)
def test_a_mistake_is_one_line_that_names_it(flags, expected, tmp_path):
    told = fails(*flags, f"--workdir={tmp_path / 'w'}")
    for part in expected:
        assert part in told
    assert not (tmp_path / "w" / "checkpoints").exists()


def test_a_data_file_cut_short_is_one_line_that_names_it(tmp_path):
    (tmp_path / "mnist").mkdir()
    cut = tmp_path / "mnist" / "train-images-idx3-ubyte"
    cut.write_bytes(bytes([0, 0, 8, 3, 0, 0, 234, 96, 0, 0, 0, 28, 0, 0, 0, 28, 1, 2, 3]))
    told = fails("--config=gan_mnist", f"--data_dir={tmp_path}", f"--workdir={tmp_path / 'w'}")
    assert "train-images-idx3-ubyte" in told


def test_a_mistake_found_late_may_be_mended_in_the_same_workdir(tmp_path):
    flags = ["--config=gan_digits", *TINY["gan_digits"], f"--workdir={tmp_path / 'w'}"]
    assert "5000" in fails(*flags, "--config.data.batch_size=5000")
    done = train(*flags)
    assert done.returncode == 0, done.stderr


def test_a_folder_of_pictures_trains_and_names_its_broken_file(tmp_path):
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(20):
            pixels = random.integers(0, 255, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{i}.png")
    (tmp_path / "pets" / "cat" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    done = train(
        "--config=cnn_digits",
        *TINY["cnn_digits"],
        "--config.steps=5",
        "--config.data.batch_size=8",
        f"--config.data.name=folder:{tmp_path / 'pets'}",
        "--config.data.image_size=16",
        f"--workdir={tmp_path / 'w'}",
    )
    assert done.returncode == 0, done.stderr
    assert "torn.jpg" in done.stderr
    config = json.loads((tmp_path / "w" / "config.json").read_text())
    assert config["model"]["class_names"] == ["cat", "dog"]
    assert config["model"]["image_shape"] == [16, 16, 3]


# The console scripts of setup.py: module of `run`, a flag, the extra that they need.
SCRIPTS = [
    ("train.main", "--config=gan_digits", "train"),
    ("train.evaluate_main", "--pretrained=cnn_mnist", "train"),
    ("serving.export_main", "--pretrained=cnn_mnist", "serve"),
]


@pytest.mark.parametrize(("module", "flag", "extra"), SCRIPTS)
def test_a_base_install_names_the_extra_that_is_missing(base_install, module, flag, extra, tmp_path):
    python, environment = base_install
    script = f"from {module} import run; run()"
    folder = "--base_dir=models" if extra == "serve" else "--workdir=w"
    done = subprocess.run(
        [*python, "-c", script, flag, folder],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert re.fullmatch(rf"error: this needs \w+: pip install 'atelier\[{extra}\]'\n", done.stderr)
    assert (done.returncode, done.stdout) == (1, "")
    assert list(tmp_path.iterdir()) == []
