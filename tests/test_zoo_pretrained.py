"""Kept weights: what is written is what is loaded, and what the cards say is true."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tiny

import zoo
from train import data, evaluate, presets
from zoo import pretrained
from zoo.errors import UserError

PRESETS = [
    *("autoencoder_fashion", "autoencoder_mnist", "autoencoder_paintings"),
    *("cnn_fashion", "cnn_mnist", "cnn_paintings"),
    *("gan_fashion", "gan_mnist", "gan_paintings", "rnn_chorales", "rnn_shakespeare", "rnn_tang"),
    *("stylizer_paintings", "vae_fashion", "vae_mnist", "vae_paintings"),
]


def card(family):
    config = tiny.CONFIGS[family]
    return {"name": f"{family}_tiny", "family": family, "model": pretrained.config_to_json(config)}


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """An empty folder in the place of zoo/weights."""
    monkeypatch.setattr(pretrained, "DIRECTORY", tmp_path)
    return tmp_path


@pytest.mark.parametrize("family", sorted(tiny.CONFIGS))
def test_what_is_kept_is_what_is_loaded(family, weights):
    model = zoo.build(family, tiny.CONFIGS[family], seed=5)
    pretrained.keep(model, card(family), {})
    assert zoo.names() == [f"{family}_tiny"]
    loaded = zoo.from_pretrained(f"{family}_tiny")
    assert loaded.config == model.config
    for network, of in model.networks.items():
        for a, b in zip(of.weights, loaded.networks[network].weights, strict=True):
            # Kernels are kept as float16: 11 bits of mantissa.
            np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=2**-11, atol=1e-6)


def test_a_loaded_gan_can_be_trained_on_from_the_weights_it_samples(weights):
    pretrained.keep(zoo.build("gan", tiny.CONFIGS["gan"], seed=5), card("gan"), {})
    model = zoo.from_pretrained("gan_tiny")
    for a, b in zip(model.generator.weights, model.ema_generator.weights, strict=True):
        assert np.array_equal(a.numpy(), b.numpy())


def test_weights_of_another_architecture_are_one_clear_error(weights):
    pretrained.keep(zoo.build("gan", tiny.CONFIGS["gan"]), card("gan"), {})
    described = json.loads((weights / "gan_tiny" / "card.json").read_text())
    described["model"]["channels"] = 16
    (weights / "gan_tiny" / "card.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match="another architecture"):
        zoo.from_pretrained("gan_tiny")


def test_damaged_weights_are_one_clear_error(weights):
    pretrained.keep(zoo.build("gan", tiny.CONFIGS["gan"]), card("gan"), {})
    path = weights / "gan_tiny" / "weights.npz"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="cannot read the weights"):
        zoo.from_pretrained("gan_tiny")


def test_an_unknown_name_lists_the_kept_ones():
    with pytest.raises(UserError, match=r"no pretrained weights named 'gan_fashon'; there are .*gan_fashion"):
        zoo.from_pretrained("gan_fashon")


def test_importing_the_zoo_needs_no_tensorflow():
    code = "import zoo, sys; print(zoo.names(), 'tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")


@pytest.mark.parametrize("name", PRESETS)
def test_every_kept_preset_says_what_it_is_and_answers(name):
    described = pretrained.card(name)
    needed = {"data", "command", "seed", "wall_seconds", "hardware", "metrics", "versions", "steps"}
    assert needed <= set(described)
    assert described["data"]["licence"]
    assert (pretrained.DIRECTORY / name / "weights.npz").stat().st_size <= 4 * 2**20
    config = presets.load(name)
    assert (config.family, config.steps) == (described["family"], described["steps"])
    model = zoo.from_pretrained(name)
    signature, request = next(iter(model.example_requests().items()))
    answer = model.signatures()[signature](**{k: tf.constant(v) for k, v in request.items()})
    assert all(
        np.isfinite(v.numpy()).all() for v in answer.values() if v.dtype.is_floating
    )


@pytest.mark.parametrize("name", [n for n in PRESETS if n.startswith("cnn")])
def test_a_kept_classifier_is_as_good_as_its_card_says(name, shared_data):
    described = pretrained.card(name)
    config = presets.load(name)
    images = data.load(
        config.data.name, data_dir=shared_data, image_size=config.data.image_size or None
    )
    report = evaluate.evaluate(zoo.from_pretrained(name), "cnn", images)
    assert report["metrics"]["accuracy"] == pytest.approx(described["metrics"]["accuracy"], abs=0.002)


@pytest.mark.parametrize("name", ["gan_mnist"])
def test_a_kept_gan_is_as_good_as_its_card_says(name, shared_data):
    described = pretrained.card(name)
    images = data.load(presets.load(name).data.name, data_dir=shared_data)
    metrics = evaluate.evaluate(zoo.from_pretrained(name), "gan", images)["metrics"]
    assert metrics == pytest.approx(described["metrics"], rel=0.02)
