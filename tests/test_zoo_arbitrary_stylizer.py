"""What a stylizer of any style promises beyond the families' contract."""

import functools
import io

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny
from PIL import Image

import zoo
from zoo import gatys, pictures, vgg19

CONFIG = tiny.CONFIGS["arbitrary_stylizer"]


@pytest.fixture(scope="module")
def model():
    return tiny.painter("arbitrary_stylizer")


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(2).random((40, 52, 3), np.float32)


def striped(*colour, side=16):
    stripes = (np.arange(side) % 4 < 2)[:, None, None] * np.array(colour) * np.ones((side, side, 3))
    return stripes.astype(np.float32)


RED, BLUE = striped(0.9, 0.2, 0.1), striped(0.1, 0.2, 0.9)


@functools.cache
def signatures(model):
    return model.signatures()


def stylized(model, photo, painting, strength=1.0):
    answer = signatures(model)["stylize"](
        image=tf.constant(photo[None]),
        style_image=tf.constant(painting[None]),
        strength=tf.constant([strength]),
    )
    return answer["image"][0].numpy()


def test_a_painting_gives_its_style_and_another_gives_another(model, photo):
    red, blue = stylized(model, photo, RED), stylized(model, photo, BLUE)
    assert np.abs(red - blue).max() > 0.01
    assert np.abs(red - photo).max() > 0.01


def test_strength_goes_from_the_photo_to_the_style(model, photo):
    assert np.array_equal(stylized(model, photo, RED, 0.0), photo)
    far = [np.abs(stylized(model, photo, RED, s) - photo).mean() for s in (0.1, 0.5, 1.0)]
    assert 0 < far[0] < far[1] < far[2]
    with pytest.raises(tf.errors.InvalidArgumentError, match="strength: 0 to 1 is expected"):
        stylized(model, photo, RED, 1.5)


def test_the_library_paints_what_the_signature_does(model, photo):
    np.testing.assert_allclose(model.paint(photo, model.embed(RED)), stylized(model, photo, RED), atol=1e-5)


def test_a_mean_of_two_styles_lies_between_them(model):
    assert model.embed(RED)[0] == model.embed(BLUE)[0] == 1.0
    photo = np.random.default_rng(3).random((32, 32, 3), np.float32)
    ends = [model.paint(photo, model.embed(painting)) for painting in (RED, BLUE)]
    between = model.paint(photo, (model.embed(RED) + model.embed(BLUE)) / 2)
    whole = np.abs(ends[0] - ends[1]).mean()
    assert 0 < np.abs(between - ends[0]).mean() < whole
    assert 0 < np.abs(between - ends[1]).mean() < whole


def test_one_painting_serves_all_photos_of_a_request(model, photo):
    photos = tf.constant(np.stack([photo, photo[::-1]]))
    both = signatures(model)["stylize"](image=photos, style_image=tf.constant(RED[None]))["image"]
    np.testing.assert_allclose(both[1], stylized(model, photo[::-1], RED), atol=1e-5)


def test_a_large_painting_is_read_at_the_size_of_training(model, photo):
    """In the library by Pillow, in a graph by TensorFlow."""

    def smooth(side):
        y, x = np.mgrid[:side, :side] / side + 0.5 / side
        return np.stack([y, x**2, y * x], -1).astype(np.float32)

    small, large = smooth(16), smooth(128)
    np.testing.assert_allclose(stylized(model, photo, large), stylized(model, photo, small), atol=0.03)
    np.testing.assert_allclose(model.embed(large), model.embed(small), atol=0.02)


def test_files_are_painted_in_the_style_of_files(model, photo):
    photo = np.round(photo * 255) / 255
    answer = signatures(model)["stylize_bytes"](
        image_bytes=tf.constant([pictures.encode(photo, ".png")] * 2),
        style_bytes=tf.constant([pictures.encode(RED, ".png"), pictures.encode(BLUE, ".png")]),
        format=tf.constant([b"png"]),
    )
    for encoded, painting in zip(answer["image_bytes"].numpy(), (RED, BLUE), strict=True):
        painted = np.asarray(Image.open(io.BytesIO(encoded)), np.float32) / 255.0
        painting = np.round(painting * 255) / 255
        assert np.abs(painted - stylized(model, photo, painting.astype(np.float32))).max() <= 1.01 / 255


@pytest.mark.parametrize("which", ["image", "style_image"])
def test_a_picture_that_is_too_small_is_refused(model, photo, which):
    request = {"image": photo, "style_image": RED} | {which: np.zeros((15, 40, 3), np.float32)}
    with pytest.raises(tf.errors.InvalidArgumentError, match="at least 16 pixels a side"):
        signatures(model)["stylize"](**{name: tf.constant(value[None]) for name, value in request.items()})


def test_a_file_that_is_no_picture_is_refused(model, photo):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"Unknown image file format|Unable to decode"):
        signatures(model)["stylize_bytes"](
            image_bytes=tf.constant([pictures.encode(photo, ".png")]),
            style_bytes=tf.constant([b"no picture"]),
        )


def test_the_loss_is_that_of_gatys_in_the_style_of_another_picture():
    """A fresh network adds nothing, so that the loss is the style's alone: of each picture as it is, against
    the one half the batch before it, over that picture's own style and the way to it."""
    model = zoo.build("arbitrary_stylizer", CONFIG)
    model.compile(keras.optimizers.Adam())
    batch = tf.constant(np.random.default_rng(4).random((3, 16, 16, 3), np.float32))
    found = model.test_step((batch, None))
    config = gatys.Config()
    features = gatys.network(config, vgg19.RANDOM)(batch)
    wanted = []
    for row, before in ((0, 2), (1, 0), (2, 1)):
        of_style = nothing = 0.0
        for name in config.style_layers:
            seen, painting = gatys.gram(features[name][row][None]), gatys.gram(features[name][before][None])
            of_style += 0.2 * gatys.style_loss(seen, painting)[0]
            nothing += 0.2 * gatys.style_loss(tf.zeros_like(painting), painting)[0]
        wanted.append(float(of_style / (nothing + of_style)))
    assert float(found["style"]) == pytest.approx(np.mean(wanted), rel=1e-3)
    assert float(found["content"]) == pytest.approx(0.0, abs=1e-6)


def test_it_learns_to_paint_in_styles_that_differ():
    """Two pictures, each in the style of the other: a network that took no notice of the style could not do
    both."""
    model = zoo.build("arbitrary_stylizer", CONFIG)
    model.compile(keras.optimizers.Adam(3e-3))
    batch = np.stack([striped(0.9, 0.2, 0.1), 1.0 - striped(0.1, 0.2, 0.9).transpose(1, 0, 2)])
    first = float(model.evaluate(batch, np.zeros(2), batch_size=2, verbose=0, return_dict=True)["style"])
    data = tf.data.Dataset.from_tensors((batch, np.zeros(2))).repeat(150)
    model.fit(data, verbose=0)
    last = float(model.evaluate(batch, np.zeros(2), batch_size=2, verbose=0, return_dict=True)["style"])
    assert last < 0.5 * first
    mixes = model.predictor(tf.constant(batch)).numpy()
    assert np.abs(mixes[0] - mixes[1]).max() > 0.01
