"""VGG19's features: the layers asked for, the same numbers as Keras' model, weights files of every kind."""

import itertools
import re
import shutil

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from zoo import vgg19
from zoo.errors import UserError

IMAGE = np.random.default_rng(0).random([1, 48, 40, 3], np.float32)


@pytest.fixture(scope="session")
def weights(shared_data):
    return str(shared_data / "vgg19" / "vgg19_imagenet_notop_q8.h5")


def test_features_come_by_name_from_no_deeper_than_the_deepest_layer():
    model = vgg19.features(["block3_conv1", "block1_conv2"], vgg19.RANDOM)
    shapes = {name: value.shape for name, value in model(IMAGE).items()}
    assert shapes == {"block3_conv1": (1, 12, 10, 256), "block1_conv2": (1, 48, 40, 64)}
    widths = [3, 64, 64, 128, 128, 256]
    assert model.count_params() == sum(9 * a * b + b for a, b in itertools.pairwise(widths))
    assert not model.trainable_variables


def test_one_feature_by_hand():
    """A kernel of zeros but for its middle copies the input: BGR, 0..255, less the mean; then ReLU."""
    model = vgg19.features(["block1_conv1"], vgg19.RANDOM)
    kernel, bias = np.zeros([3, 3, 3, 64], np.float32), np.zeros(64, np.float32)
    kernel[1, 1, [0, 1, 2], [0, 1, 2]] = 1.0
    bias[3] = 7.0
    model.get_layer("block1_conv1").set_weights([kernel, bias])
    found = model(np.float32([[[[0.2, 0.6, 0.8]]]]))["block1_conv1"].numpy()[0, 0, 0]  # red, green, blue
    np.testing.assert_allclose(
        found[:5], [0.8 * 255 - 103.939, 0.6 * 255 - 116.779, 0.0, 7.0, 0.0], rtol=1e-5
    )


def test_the_features_are_those_of_keras_own_model(weights):
    names = ["block1_conv1", "block4_conv2", "block5_conv1"]
    reference = keras.applications.VGG19(weights=weights, include_top=False)
    wanted = keras.Model(reference.input, {n: reference.get_layer(n).output for n in names})
    prepared = keras.applications.vgg19.preprocess_input(255.0 * IMAGE)
    for name, value in wanted(prepared).items():
        found = vgg19.features(names, weights)(IMAGE)[name].numpy()
        np.testing.assert_allclose(found, value, rtol=1e-3, atol=1e-3 * float(tf.reduce_max(value)))


def test_pooling_takes_the_mean_or_the_maximum():
    features = {pooling: vgg19.features(["block2_conv1"], vgg19.RANDOM, pooling) for pooling in vgg19.Pooling}
    flat = np.full([1, 16, 16, 3], 0.7, np.float32)
    # In the middle of a flat picture all values of a window are equal, and so are mean and maximum.
    found = {p: m(flat)["block2_conv1"].numpy()[:, 3:-3, 3:-3] for p, m in features.items()}
    np.testing.assert_allclose(found["max"], found["average"], rtol=1e-4, atol=1e-3)
    found = {p: m(IMAGE)["block2_conv1"].numpy() for p, m in features.items()}
    assert np.abs(found["max"] - found["average"]).max() > 1.0


def test_bfloat16_sees_almost_the_same():
    exact, short = (
        vgg19.features(["block2_conv2"], vgg19.RANDOM, dtype=dtype)(IMAGE)["block2_conv2"]
        for dtype in ("float32", "bfloat16")
    )
    assert short.dtype == tf.bfloat16
    error = np.linalg.norm(tf.cast(short, tf.float32) - exact) / np.linalg.norm(exact)
    assert 0 < error < 0.02


@pytest.mark.parametrize(
    ("layer", "margin"), [("block1_conv1", 1), ("block2_conv1", 6), ("block3_conv2", 20)]
)
def test_nothing_past_the_margin_changes_a_feature(layer, margin):
    assert vgg19.margin(layer) == margin
    model, stride = vgg19.features([layer], vgg19.RANDOM), vgg19.stride(layer)
    image = np.random.default_rng(1).random([1, 64, 64, 3], np.float32)
    first = 32 - margin  # of the rows that may change the features of row 32 and later
    other = image.copy()
    other[:, :first] = 0.0
    here, there = (model(x)[layer].numpy()[:, 32 // stride :] for x in (image, other))
    np.testing.assert_array_equal(here, there)
    last = 32 + margin  # and of those that may change the features before row 32
    other = image.copy()
    other[:, last:] = 0.0
    here, there = (model(x)[layer].numpy()[:, : 32 // stride] for x in (image, other))
    np.testing.assert_array_equal(here, there)


def test_the_margin_of_the_deepest_style_layer():
    assert vgg19.margin("block5_conv1") == 96


def test_random_weights_are_said_loudly(caplog):
    vgg19.features(["block1_conv1"], vgg19.RANDOM)
    assert "RANDOM WEIGHTS" in caplog.text


def test_an_unknown_layer_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no layer 'block6_conv1'; its layers are block1_conv1, "):
        vgg19.features(["block6_conv1"], vgg19.RANDOM)


# Weights ----------------------------------------------------------------------------------------


def test_the_weights_are_found_in_keras_cache(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"are not at .*download them.*--vgg19_weights=<path>"):
        vgg19.features(["block1_conv1"])
    (tmp_path / "models").mkdir()
    shutil.copy(weights, tmp_path / "models" / vgg19.FILE)
    by_path = vgg19.features(["block1_conv1"], weights)
    for a, b in zip(vgg19.features(["block1_conv1"]).get_weights(), by_path.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_files_that_hold_no_vgg19_are_one_clear_error(tmp_path):
    (tmp_path / "text.h5").write_text("no HDF5 at all")
    _write(tmp_path / "other.h5", {"dense": [(4, 4), (4,)]})
    _write(tmp_path / "shape.h5", {"block1_conv1": [(3, 3, 1, 64), (64,)]})
    _write(tmp_path / "nan.h5", {"block1_conv1": [(3, 3, 3, 64), (64,)]}, np.nan)
    _write(tmp_path / "cut.h5", {"block1_conv1": [(3, 3, 3, 64), (64,)]})
    whole = (tmp_path / "cut.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    for name in ("text", "other", "shape", "nan", "cut"):
        path = tmp_path / f"{name}.h5"
        expected = re.escape(f"{path} holds no whole VGG19 in Keras' format (") + ".*download them"
        with pytest.raises(UserError, match=expected) as caught:
            vgg19.features(["block1_conv1"], str(path))
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="there is no file of VGG19 weights"):
        vgg19.features(["block1_conv1"], str(tmp_path / "absent.h5"))


def test_a_file_with_the_classifier_in_it_will_do(tmp_path):
    path = tmp_path / "whole.h5"
    _write(path, {"block1_conv1": [(3, 3, 3, 64), (64,)], "fc1": [(4, 4), (4,)]}, 0.5, "model_weights")
    kernel, bias = vgg19.features(["block1_conv1"], str(path)).get_weights()
    assert np.all(kernel == 0.5)
    assert np.all(bias == 0.5)


def _write(path, layers, value=0.5, group=None):
    """A file as Keras writes its legacy weights."""
    with h5py.File(path, "w") as file:
        root = file.create_group(group) if group else file
        for layer, shapes in layers.items():
            names = [f"{layer}/{kind}:0" for kind in ("kernel", "bias")]
            of_layer = root.create_group(layer)
            of_layer.attrs["weight_names"] = names
            for name, shape in zip(names, shapes, strict=True):
                of_layer.create_dataset(name, data=np.full(shape, value, np.float32))
