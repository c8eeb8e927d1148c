"""The figures of a stylizer."""

import dataclasses

import numpy as np
import pytest
import tiny

import zoo
from train import evaluate
from zoo.errors import UserError


def test_who_paints_nothing_keeps_the_content_and_wins_no_style():
    model = zoo.build("stylizer", tiny.CONFIGS["stylizer"])
    report = evaluate.evaluate(model, "stylizer", tiny.photos())
    metrics = report["metrics"]
    assert metrics["content_loss"] == 0
    assert metrics["gatys_loss"] == metrics["style_loss"] == metrics["gatys_loss_of_photo"] > 0
    by_style = report["slices"]["gatys_loss"]
    assert list(by_style) == ["reds", "blues"]
    assert np.mean(list(by_style.values())) == pytest.approx(metrics["gatys_loss"])
    assert report["n_test"] == 16
    assert "gatys_loss" in evaluate.table(report)


def test_the_paintings_may_lie_elsewhere_than_in_training(tmp_path):
    config = dataclasses.replace(tiny.CONFIGS["stylizer"], style_dir="/where/it/was/trained")
    model = zoo.build("stylizer", config)
    with pytest.raises(UserError, match=rf"there is no {tmp_path}/reds"):
        evaluate.evaluate(model, "stylizer", tiny.photos(), {"style_dir": str(tmp_path)})


def test_of_any_style_the_styles_are_held_out_pictures_and_the_slices_their_kinds():
    model = zoo.build("arbitrary_stylizer", tiny.CONFIGS["arbitrary_stylizer"])
    report = evaluate.evaluate(model, "arbitrary_stylizer", tiny.photos())
    metrics = report["metrics"]
    # Who paints nothing keeps the content and wins no style.
    assert metrics["content_loss"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["gatys_loss"] == pytest.approx(metrics["gatys_loss_of_photo"], rel=1e-3)
    assert metrics["gatys_loss_of_photo"] > 0
    assert set(report["slices"]["gatys_loss"]) == {"smooth", "rough"}
    assert report["n_test"] == 8  # of 16: a picture that gives its style is painted in none
