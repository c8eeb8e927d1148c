"""The classifier's formulas by hand-worked numbers, and what its signatures promise."""

import io
import math

import numpy as np
import pytest
import tensorflow as tf
import tiny
from PIL import Image

import zoo
from zoo import cnn


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
