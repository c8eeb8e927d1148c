"""Judging: the numbers of a model whose answers are known, and the binary's mistakes."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tiny
from binaries import ROOT, run_main

import zoo
from train import data, evaluate
from zoo import model_card
from zoo.errors import UserError


class AlwaysThree(zoo.family("cnn").Model):
    """A classifier that is 70 % sure of class 3, whatever it sees."""

    def signatures(self):
        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float32, "image")])
        def classify(image):
            row = tf.constant([[1 / 30] * 3 + [0.7] + [1 / 30] * 6])
            return {"probabilities": tf.repeat(row, tf.shape(image)[0], axis=0)}

        return {"classify": classify}


def test_a_classifier_that_always_says_three_is_right_on_the_threes():
    digits = data.load("digits")
    report = evaluate.evaluate(AlwaysThree(tiny.CONFIGS["cnn"]), "cnn", digits)
    share = np.mean(digits.test.labels == 3)
    assert report["metrics"]["accuracy"] == pytest.approx(share)
    nll = -share * np.log(0.7) - (1 - share) * np.log(1 / 30)
    assert report["metrics"]["nll"] == pytest.approx(nll, rel=1e-5)
    assert report["slices"]["accuracy"]["3"] == 1.0
    assert sum(report["slices"]["accuracy"].values()) == 1.0


def test_a_gan_s_report_has_the_real_row_beside_it():
    report = evaluate.evaluate(zoo.build("gan", tiny.CONFIGS["gan"]), "gan", data.load("digits"))
    assert set(report["fake"]) == {*report["real"], "agreement"}
    # Untrained, so far from the digits; real digits are near.
    assert report["fake"]["fd_feat"] > 5 * report["real"]["fd_feat"]
    assert "REAL" in evaluate.table(report)


def test_a_model_of_other_classes_is_one_clear_error():
    other = dataclasses.replace(tiny.CONFIGS["cnn"], class_names=("cat", "dog"))
    with pytest.raises(UserError, match=r"made for class_names \('cat', 'dog'\), data set digits has"):
        evaluate.evaluate(zoo.build("cnn", other), "cnn", data.load("digits"))


def test_a_model_of_another_image_size_is_one_clear_error():
    other = dataclasses.replace(tiny.CONFIGS["cnn"], image_shape=(16, 16, 1))
    expected = r"made for image_shape \(16, 16, 1\), data set digits has \(8, 8, 1\)"
    with pytest.raises(UserError, match=expected):
        evaluate.evaluate(zoo.build("cnn", other), "cnn", data.load("digits"))


def test_a_path_that_the_family_does_not_need_is_one_clear_error():
    model = zoo.build("cnn", tiny.CONFIGS["cnn"])
    with pytest.raises(UserError, match="--style_dir: family cnn needs no such path"):
        evaluate.evaluate(model, "cnn", data.load("digits"), {"style_dir": "paintings"})


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "w"
    sizes = ("steps=30", "log_every=10", "eval_every=30", "checkpoint_every=30", "preview_every=30")
    trained = run_main(
        "train.main",
        "--config=cnn_digits",
        f"--workdir={workdir}",
        *(f"--config.{size}" for size in sizes),
    )
    assert trained.returncode == 0, trained.stderr
    return workdir


def test_the_binary_prints_a_table_and_writes_json(workdir):
    done = run_main("train.evaluate_main", "--config=cnn_digits", f"--workdir={workdir}")
    assert done.returncode == 0, done.stderr
    report = json.loads((workdir / "evaluation.json").read_text())
    assert f"{report['metrics']['accuracy']:.5f}" in done.stdout
    # The loop's own evaluation judged the same weights on the same images.
    lines = [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]
    logged = [x["eval/accuracy"] for x in lines if "eval/accuracy" in x][-1]
    assert report["metrics"]["accuracy"] == pytest.approx(logged, abs=1e-6)
    # The run's card for people has the figures, too, and all that a card says.
    card = json.loads((workdir / "card.json").read_text())
    assert card["config_hash"] == model_card.config_hash(json.loads((workdir / "config.json").read_text()))
    assert card["code_version"] == model_card.code_version()
    shown = (workdir / "card.md").read_text()
    for part in (f"| accuracy | {logged:.6g} |", "| accuracy/3 |", card["limits"], card["config_hash"]):
        assert part in shown


# The binary with another folder of kept weights.
KEEPING = """
import pathlib, sys
from zoo import pretrained
pretrained.DIRECTORY = pathlib.Path(sys.argv.pop(1))
from train import evaluate_main
evaluate_main.run()
"""


def test_weights_are_kept_with_a_card_that_can_be_brought_up_to_date(workdir, tmp_path):
    def kept(*flags):
        output = f"--output={tmp_path / 'evaluation.json'}"
        command = [sys.executable, "-c", KEEPING, tmp_path, *flags, output, "--keep"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        folder = tmp_path / "cnn_digits"
        return json.loads((folder / "card.json").read_text()), (folder / "weights.npz").read_bytes()

    card, weights = kept(f"--workdir={workdir}")
    assert card["metrics"].keys() == {"accuracy", "nll"} and "accuracy" in card["slices"]
    old = {name: value for name, value in card.items() if name not in ("limits", "slices")}
    old["metrics"] = {"accuracy": 0.0}
    old["judged_images"] = {"generated": 1, "test": 1}  # of figures that are no longer there
    (tmp_path / "cnn_digits" / "card.json").write_text(json.dumps(old))
    assert kept("--pretrained=cnn_digits") == (card, weights)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--pretrained=nothing"], "no pretrained weights named 'nothing'"),
        (["--workdir=/nowhere"], "/nowhere is no training work directory"),
        ([], "exactly one of --workdir=<dir>, --pretrained=<preset> and --export=<dir>"),
        (["--pretrained=cnn_mnist", "--config=cnn_mnst"], "unknown preset 'cnn_mnst'"),
        (["--pretrained=cnn_mnist", "--gate=accuracy >= 1"], "only an export is blessed"),
        (["--export=/nowhere"], "/nowhere is no export"),
        (["--pretrained=cnn_mnist", "--config=cnn_fashion", "--keep"], "leave --config out"),
        (["--export=/nowhere", "--keep"], "--keep keeps what was found of a --workdir or a --pretrained"),
    ],
)
def test_a_mistake_is_one_line(flags, expected):
    done = run_main("train.evaluate_main", *flags)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert expected in done.stderr
