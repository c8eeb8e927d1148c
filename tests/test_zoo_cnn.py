"""The classifier's formulas by hand-worked numbers, and what its signatures promise."""

import io
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from PIL import Image

import zoo
from zoo import cnn, pretrained, vgg19


def test_cross_entropy_by_hand():
    # softmax of (0, log 3) is (1/4, 3/4)
    logits = tf.constant([[0.0, math.log(3.0)]])
    assert float(cnn.cross_entropy(tf.constant([1]), logits)) == pytest.approx(math.log(4 / 3))
    # targets (0.1, 0.9) at smoothing 0.2
    want = 0.1 * math.log(4) + 0.9 * math.log(4 / 3)
    assert float(cnn.cross_entropy(tf.constant([1]), logits, 0.2)) == pytest.approx(want, abs=1e-6)


def test_grad_cam_by_hand():
    # Two channels on a 1 x 2 map; the mean gradients are 1 and -1, so heat = relu(A_0 - A_1).
    features = tf.constant([[[[4.0, 1.0], [1.0, 3.0]]]])
    gradient = tf.constant([[[[2.0, -1.0], [0.0, -1.0]]]])
    np.testing.assert_allclose(cnn.grad_cam(features, gradient), [[[1.0, 0.0]]])
    np.testing.assert_allclose(cnn.grad_cam(features, -gradient), [[[0.0, 1.0]]])
    np.testing.assert_allclose(cnn.grad_cam(features, 0 * gradient), [[[0.0, 0.0]]])


@pytest.fixture(scope="module")
def model():
    return zoo.build("cnn", tiny.CONFIGS["cnn"])


def test_bytes_give_the_answer_of_their_pixels(model):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    image = pixels[None, :, :, None].astype(np.float32) / 255.0
    signatures = model.signatures()
    want = signatures["classify"](image=tf.constant(image))
    got = signatures["classify_bytes"](image_bytes=tf.constant([buffer.getvalue()]))
    np.testing.assert_allclose(got["probabilities"], want["probabilities"], atol=1e-6)
    assert want["label"].numpy()[0].decode() == model.config.class_names[
        int(np.argmax(want["probabilities"][0]))
    ]


def test_colour_pictures_of_any_size_become_the_model_s_own(model):
    buffer = io.BytesIO()
    Image.new("RGB", (31, 17), (250, 10, 10)).save(buffer, "JPEG")
    answer = model.signatures()["classify_bytes"](image_bytes=tf.constant([buffer.getvalue()]))
    assert answer["probabilities"].shape == (1, 10)


def test_bytes_that_are_no_picture_are_one_clear_error(model):
    with pytest.raises(tf.errors.InvalidArgumentError, match="Unknown image file format"):
        model.signatures()["classify_bytes"](image_bytes=tf.constant([b"no picture"]))


def test_explain_explains_the_predicted_class_by_default(model):
    signatures = model.signatures()
    image = tf.random.stateless_uniform([5, 8, 8, 1], [1, 2])
    predicted = tf.argmax(signatures["classify"](image=image)["probabilities"], 1)
    named = signatures["explain"](image=image, class_id=tf.cast(predicted, tf.int32))["heatmap"]
    np.testing.assert_allclose(signatures["explain"](image=image)["heatmap"], named, atol=1e-6)


def test_on_vgg19_only_the_head_learns_and_only_it_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "DIRECTORY", tmp_path)
    config = cnn.Config(image_shape=(16, 16, 3), vgg19_weights=vgg19.RANDOM)
    model = zoo.build("cnn", config)
    model.compile(keras.optimizers.Adam(1e-2))
    assert {v.path.split("/")[0] for v in model.trainable_variables} == {"scaled", "logits"}
    image, label = tf.random.stateless_uniform([4, 16, 16, 3], [0, 1]), tf.constant([0, 1, 2, 3])
    losses = [float(model.train_step((image, label))["loss"]) for _ in range(5)]
    assert losses[-1] < losses[0]
    seen = model.signatures()["explain"](image=image, class_id=tf.constant([-1]))["heatmap"]
    assert seen.shape == (4, 16, 16)
    pretrained.keep(model, {"name": "mine", "family": "cnn", "model": pretrained.config_to_json(config)}, {})
    with np.load(tmp_path / "mine" / "weights.npz") as kept:
        assert all(name.startswith("head/") for name in kept.files)
    again = zoo.from_pretrained("mine")
    # Random weights of VGG19 come from fixed seeds.
    np.testing.assert_allclose(again(image), model(image), atol=0.02)


def test_a_step_on_vgg19_sees_what_is_served_and_leaves_nothing_behind():
    """The step convolves in another way (`zoo.winograd`), which an export is not to hold."""
    model = zoo.build("cnn", cnn.Config(image_shape=(16, 16, 3), vgg19_weights=vgg19.RANDOM))
    model.compile(keras.optimizers.Adam(1e-3))
    image, label = tf.random.stateless_uniform([4, 16, 16, 3], [0, 1]), tf.constant([0, 1, 2, 3])
    served = cnn.cross_entropy(label, model(image))
    assert float(model.test_step((image, label))["loss"]) == pytest.approx(float(served), rel=1e-3)
    assert all(layer.transformed is None for layer in vgg19._slow(model.trunk.get_layer("vgg19")))


def test_vgg19_sees_colour_alone():
    with pytest.raises(zoo.UserError, match="VGG19 sees pictures in colour alone"):
        zoo.build("cnn", cnn.Config(vgg19_weights=vgg19.RANDOM))
