"""train.metrics: numbers worked by hand, and the judges that are kept."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from train import data as data_sets
from train.metrics import distances, generative, judge
from zoo.errors import UserError

KEPT = {"digits": None, "mnist": None, "fashion_mnist": None, "paintings": 64}  # -> image size


def random_images(n, seed=0, shape=(8, 8, 1)):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def train_small():
    """Eight images, one epoch: its answers are poor, its mechanics are those of the kept ones."""
    labels = np.arange(8, dtype=np.int32) % 2
    return judge.train(random_images(8), labels, ["a", "b"], epochs=1, seed=0, augment=False)


@pytest.fixture(scope="module")
def small():
    return train_small()


# Distances --------------------------------------------------------------------------------------


def test_frechet_distance_of_one_dimensional_gaussians():
    # Means 0 and 3, variances (ddof 1) 2 and 8: (0 - 3)^2 + (sqrt 2 - sqrt 8)^2 = 9 + 2.
    assert distances.frechet_distance([[-1], [1]], [[1], [5]]) == pytest.approx(11.0)


def test_frechet_distance_of_correlated_gaussians():
    # a: variances 4 and 0 along (1, 1)/sqrt 2 and (1, -1)/sqrt 2; b: covariance 2 I, which
    # commutes with every matrix: (2 - sqrt 2)^2 + (0 - sqrt 2)^2.
    a = np.array([[1, 1], [-1, -1]])
    b = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * np.sqrt(1.5)
    expected = (2 - np.sqrt(2)) ** 2 + 2
    assert distances.frechet_distance(a, b) == pytest.approx(expected)


def test_frechet_distance_of_identical_sets_is_zero_even_when_rank_deficient():
    features = np.random.default_rng(0).normal(size=(10, 64)) * 100  # 10 rows span 9 dimensions
    assert distances.frechet_distance(features, features) == pytest.approx(0.0, abs=1e-5)


def test_frechet_distance_is_symmetric_and_grows_with_a_shift():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 8)), rng.normal(size=(300, 8)) * 2
    assert distances.frechet_distance(a, b) == pytest.approx(distances.frechet_distance(b, a))
    assert distances.frechet_distance(a, a + 1.5) == pytest.approx(8 * 1.5**2)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([1.0, 2.0], [[1.0], [2.0]], "features_a has shape"),
        ([[1.0]], [[1.0], [2.0]], "N >= 2"),
        ([[1.0], [2.0]], [[1.0, 1.0], [2.0, 2.0]], "columns"),
    ],
)
def test_frechet_distance_refuses_wrong_shapes(a, b, message):
    with pytest.raises(ValueError, match=message):
        distances.frechet_distance(a, b)


def test_precision_recall_of_identical_and_disjoint_sets():
    line = np.arange(10.0)[:, None]
    assert distances.precision_recall(line, line) == (1.0, 1.0)
    assert distances.precision_recall(line, line + 1000) == (0.0, 0.0)


def test_precision_recall_of_a_collapsed_generator():
    # Reals at 0..3 and 100..103; the fakes cover only the first group, and lie 0.5 beside it.
    real = np.array([0, 1, 2, 3, 100, 101, 102, 103.0])[:, None]
    fake = np.array([0.5, 1.5, 2.5, 3.5])[:, None]
    assert distances.precision_recall(real, fake) == (1.0, 0.5)
    # Turned round, all reals are covered and half of the fakes are off.
    assert distances.precision_recall(fake, real) == (0.5, 1.0)


def test_precision_uses_the_kth_neighbour_as_radius():
    # Radii of 0, 1, 3, 7 at k = 1: 1, 1, 2, 4. So 11 is just inside the ball of 7, 11.1 outside.
    real = np.array([0, 1, 3, 7.0])[:, None]
    precision, _ = distances.precision_recall(real, np.array([[11.0], [11.1]]), k=1)
    assert precision == 0.5


def test_precision_recall_needs_more_than_k_rows():
    with pytest.raises(ValueError, match="N >= 4"):
        distances.precision_recall(np.zeros((3, 2)), np.zeros((9, 2)))


def test_classifier_score_spans_one_to_the_number_of_classes():
    assert distances.classifier_score(np.eye(10)) == pytest.approx(10.0)
    assert distances.classifier_score(np.full((7, 10), 0.1)) == pytest.approx(1.0)
    assert distances.classifier_score(np.eye(10)[[3, 3, 3]]) == pytest.approx(1.0)  # collapsed


def test_classifier_score_by_hand():
    # p = (.75, .25), (.25, .75); marginal (.5, .5): exp(.75 ln 1.5 + .25 ln .5).
    expected = 1.5**0.75 * 0.5**0.25
    assert distances.classifier_score([[0.75, 0.25], [0.25, 0.75]]) == pytest.approx(expected)


@pytest.mark.parametrize("rows", [[[0.5, 0.6]], [[1.5, -0.5]], [0.5, 0.5], np.zeros((0, 2))])
def test_classifier_score_refuses_what_is_no_distribution(rows):
    with pytest.raises(ValueError, match="probabilities"):
        distances.classifier_score(rows)


def test_label_agreement_and_accuracy():
    assert distances.label_agreement([0, 1, 2, 2], [0, 1, 2, 3]) == 0.75
    assert distances.accuracy(np.array([1, 0]), np.array([0, 1])) == 0.0
    with pytest.raises(ValueError, match="one length"):
        distances.accuracy([1, 2], [1])


# Judge ------------------------------------------------------------------------------------------


def test_judge_scores_do_not_depend_on_type_or_batch(monkeypatch, small):
    images = random_images(5)
    whole = small.features(images)
    assert whole.feat.shape == (5, 64)
    assert whole.logits.shape == (5, 2)
    np.testing.assert_allclose(whole.probabilities.sum(axis=1), 1.0)
    np.testing.assert_allclose(
        small.features(images.astype(np.float32) / 255).feat, whole.feat, atol=1e-6
    )
    monkeypatch.setattr(judge, "_BATCH", 2)
    np.testing.assert_allclose(small.features(images).logits, whole.logits, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 9, 9, 1), np.float32), "expected .N >= 1, 8, 8, 1."),
        (np.zeros((0, 8, 8, 1), np.float32), "N >= 1"),
        (np.full((2, 8, 8, 1), 255.0, np.float32), "0..1"),
        (np.full((2, 8, 8, 1), np.nan, np.float32), "0..1"),
    ],
)
def test_judge_refuses_other_images(images, message, small):
    with pytest.raises(ValueError, match=message):
        small.features(images)


def test_judge_is_kept_and_loaded(monkeypatch, tmp_path, small):
    monkeypatch.setattr(judge, "JUDGES", tmp_path)
    where = small.save("folder:/data/my birds")
    assert where == tmp_path / "folder_data_my_birds"
    assert sorted(p.name for p in where.iterdir()) == ["card.json", "weights.npz"]
    loaded = judge.Judge.load("folder:/data/my birds")
    assert loaded.card == small.card
    images = random_images(4, seed=1)
    np.testing.assert_array_equal(loaded.features(images).logits, small.features(images).logits)


def test_same_seed_same_judge(small):
    images = random_images(4, seed=1)
    np.testing.assert_array_equal(
        small.features(images).logits, train_small().features(images).logits
    )


def test_unknown_judge_names_the_known_ones_and_the_command():
    with pytest.raises(
        UserError, match=r"'svhn'; known: .*mnist.*; train one with: python -m"
    ) as e:
        judge.Judge.load("svhn")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", ["weights.npz", "card.json"])
def test_damaged_judge_is_one_line(monkeypatch, tmp_path, name, small):
    monkeypatch.setattr(judge, "JUDGES", tmp_path)
    damaged = small.save("small") / name
    content = damaged.read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot be read") as e:
        judge.Judge.load("small")
    assert "\n" not in str(e.value)


def test_judge_that_cannot_be_kept_is_one_line(monkeypatch, tmp_path, small):
    (tmp_path / "judges").write_text("a file where the folder should be")
    monkeypatch.setattr(judge, "JUDGES", tmp_path / "judges")
    with pytest.raises(UserError, match="cannot keep the judge in") as e:
        small.save("small")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("name", KEPT)
def test_kept_judge_reaches_its_accuracy(name, shared_data):
    kept = judge.Judge.load(name)
    test = data_sets.load(name, data_dir=shared_data, image_size=KEPT[name]).test
    measured = distances.accuracy(kept.features(test.images).predicted, test.labels)
    # Other processors may round a borderline image the other way.
    assert measured == pytest.approx(kept.card["test_accuracy"], abs=0.002)


@pytest.mark.parametrize("name", KEPT)
def test_kept_judge_is_small_and_its_card_complete(name):
    where = judge.folder(name)
    assert (where / "weights.npz").stat().st_size <= 1_000_000
    card = json.loads((where / "card.json").read_text())
    assert card["data"] == name
    expected = {"licence", "command", "seed", "wall_time_s", "hardware", "test_accuracy", "real"}
    assert expected <= card.keys()
    assert judge.Judge.load(name).parameters() == card["parameters"]


@pytest.mark.parametrize(("train", "test", "few"), [(9, 3, "3 test"), (3, 9, "3 training")])
def test_a_set_too_small_for_the_real_row_is_refused_before_training(tmp_path, train, test, few):
    splits = ["train"] * train + ["test"] * test
    for i, pixels in enumerate(random_images(len(splits))):
        Image.fromarray(pixels[..., 0]).save(tmp_path / f"{i}.png")
    rows = "".join(f"{i}.png,a,{split}\n" for i, split in enumerate(splits))
    (tmp_path / "labels.csv").write_text("file,label,split\n" + rows)
    done = subprocess.run(
        [sys.executable, "-m", "train.metrics.judge_main", f"--data=folder:{tmp_path}"],
        capture_output=True,
        text=True,
        cwd=judge.JUDGES.parents[2],
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"has {few} images, but the REAL row needs 4 or more" in line
    assert "Traceback" not in done.stderr


# Report -----------------------------------------------------------------------------------------


def test_report_of_real_images_is_the_ceiling(small):
    train, test = random_images(40), random_images(30, seed=1)
    labels = small.features(test).predicted
    report = generative.generative_report(small, train, test, test, labels)
    fake = report["fake"]
    assert fake["fd_feat"] == pytest.approx(0.0, abs=1e-6)
    assert fake["fd_logits"] == pytest.approx(0.0, abs=1e-6)
    assert (fake["precision"], fake["recall"], fake["agreement"]) == (1.0, 1.0, 1.0)
    # REAL takes as many train images as there are fakes: distances of unequal n do not compare.
    assert (report["n"], report["n_test"], report["n_neighbours"]) == (30, 30, 30)
    assert report["real"]["fd_feat"] > 0
    assert "agreement" not in report["real"]


def test_report_samples_sorted_sets_evenly(monkeypatch, small):
    monkeypatch.setattr(generative, "SAMPLES", 100)
    fakes = random_images(200)
    labels = small.features(fakes).predicted
    labels[100:] = 1 - labels[100:]  # a prefix would agree throughout
    report = generative.generative_report(small, fakes, fakes, fakes, labels)
    assert report["fake"]["agreement"] == pytest.approx(0.5, abs=0.15)


def test_report_without_labels_and_its_table(small):
    images = random_images(10)
    report = generative.generative_report(small, images, images, images)
    assert "agreement" not in report["fake"]
    lines = generative.table(report).splitlines()
    assert [line.split()[0] for line in lines] == ["score", "FAKE", "REAL", "n"]
    assert "10 against 10 test images" in lines[-1]


def test_report_refuses_labels_of_another_length(small):
    images = random_images(10)
    with pytest.raises(ValueError, match="3 labels for 10 images"):
        generative.generative_report(small, images, images, images, np.zeros(3, int))


def test_report_on_images_of_another_size_is_one_line(small):
    images = random_images(10, shape=(9, 9, 1))
    with pytest.raises(
        UserError, match="images are 9x9x1, but the judge was trained on 8x8x1"
    ) as e:
        generative.generative_report(small, images, images, images)
    assert "\n" not in str(e.value)
