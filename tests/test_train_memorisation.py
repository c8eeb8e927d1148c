"""Nearest training images by hand, and who is caught copying."""

import numpy as np
import pytest

from train.metrics import memorisation


def images(n, seed, shape=(6, 6, 1)):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


def test_the_nearest_distance_by_hand():
    references = np.zeros((3, 2, 2, 1), np.uint8)
    references[1] = 255
    references[2, 0, 0] = 255
    queries = np.zeros((3, 2, 2, 1), np.float32)
    queries[1] = 0.75
    queries[2, 0, 0] = 0.5
    # black itself; 4 x 0.25² to white; 0.5 to black as to the one with a white corner
    np.testing.assert_allclose(memorisation.nearest(queries, references), [0.0, 0.5, 0.5], atol=1e-7)


def test_the_search_is_exact_whatever_the_blocks(monkeypatch):
    queries, references = images(37, 1), images(53, 2)
    difference = queries[:, None].astype(np.float64) - references[None]
    want = np.sqrt(np.square(difference / 255).sum(axis=(2, 3, 4))).min(axis=1)
    np.testing.assert_allclose(memorisation.nearest(queries, references), want, rtol=1e-5)
    monkeypatch.setattr(memorisation, "_BLOCK", 36 * 7)
    monkeypatch.setattr(memorisation, "_QUERIES", 10)
    np.testing.assert_allclose(memorisation.nearest(queries, references), want, rtol=1e-5)


def test_a_copy_has_distance_zero_in_large_images():
    references = images(20, 3, (64, 64, 3))
    copies = references[[3, 7]].astype(np.float32) / 255
    assert list(memorisation.nearest(copies, references)) == [0.0, 0.0]


def test_a_generator_that_copies_is_caught_and_one_of_fresh_images_is_not():
    train, test = images(600, 4), images(300, 5)
    copier = memorisation.memorisation_report(train, test, train[:400])
    assert copier["nearest_train_ratio"] == 0.0
    assert copier["near_copies"] == copier["nearest_is_train"] == 1.0

    fresh = memorisation.memorisation_report(train, test, images(400, 6))
    assert fresh["nearest_train_ratio"] == pytest.approx(1.0, abs=0.02)
    assert fresh["near_copies"] <= 0.03
    assert fresh["nearest_is_train_expected"] == pytest.approx(2 / 3)
    error = fresh["nearest_is_train_error"]
    assert error == pytest.approx(np.sqrt(2 / 9 / 400))
    assert abs(fresh["nearest_is_train"] - 2 / 3) < 4 * error
    assert (fresh["n"], fresh["n_train"], fresh["n_test"]) == (400, 600, 300)


def test_one_copy_in_ten_shows_in_the_shares_though_not_in_the_median():
    train, test, fakes = images(600, 4), images(300, 5), images(400, 6)
    fakes[::10] = train[:40]
    report = memorisation.memorisation_report(train, test, fakes)
    assert report["nearest_train_ratio"] > 0.97
    assert report["near_copies"] >= 0.1


def test_blur_brings_samples_nearer_but_no_nearer_to_training_images_than_to_others():
    train, test = images(600, 4), images(300, 5)
    blurred = images(400, 6) * 0.5 + 64.0
    report = memorisation.memorisation_report(train, test, (blurred / 255).astype(np.float32))
    assert report["nearest_train_ratio"] < 0.95
    assert abs(report["nearest_is_train"] - 2 / 3) < 4 * report["nearest_is_train_error"]
    assert "expected 66.7%" in memorisation.table(report)
