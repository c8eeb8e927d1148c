"""What a stylizer promises beyond the families' contract."""

import dataclasses
import functools
import io

import numpy as np
import pytest
import tensorflow as tf
import tiny
from PIL import Image

import zoo
from zoo import gatys, images, stylizer, vgg19
from zoo.errors import UserError

CONFIG = tiny.CONFIGS["stylizer"]


@pytest.fixture(scope="module")
def model():
    return tiny.painter("stylizer")


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(2).random((90, 77, 3), np.float32)


def file(image, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(np.round(image * 255).astype(np.uint8)).save(buffer, kind, **options)
    return buffer.getvalue()


@functools.cache
def signatures(model):
    return model.signatures()


def stylized(model, photo, weights, strength=1.0):
    answer = signatures(model)["stylize"](
        image=tf.constant(photo[None]), style_weights=tf.constant([weights]), strength=tf.constant([strength])
    )
    return answer["image"][0].numpy()


def from_bytes(model, encoded, style=b"reds", **options):
    options = {name: tf.constant([value]) for name, value in options.items()}
    answer = signatures(model)["stylize_bytes"](
        image_bytes=tf.constant([encoded]), style=tf.constant([style]), **options
    )
    return np.asarray(Image.open(io.BytesIO(answer["image_bytes"][0].numpy())), np.float32) / 255.0


def test_a_strength_of_zero_leaves_the_photo_and_more_goes_further_from_it(model, photo):
    assert np.array_equal(stylized(model, photo, [1.0, 0.0], 0.0), photo)
    far = [np.abs(stylized(model, photo, [1.0, 0.0], s) - photo).mean() for s in (0.1, 0.5, 1.0)]
    assert 0 < far[0] < far[1] < far[2]


def test_only_the_proportions_of_style_weights_count(model, photo):
    one, other = stylized(model, photo, [1.0, 0.0]), stylized(model, photo, [0.0, 1.0])
    assert np.abs(one - other).max() > 0.01
    np.testing.assert_allclose(
        stylized(model, photo, [1.0, 3.0]), stylized(model, photo, [0.5, 1.5]), atol=1e-5
    )


def test_a_fresh_model_paints_nothing(photo):
    assert np.array_equal(stylized(zoo.build("stylizer", CONFIG), photo, [1.0, 0.0]), photo)


@pytest.mark.parametrize("shape", [(90, 77), (64, 200)])
def test_tiles_paint_what_the_whole_picture_is_painted(model, shape):
    picture = np.random.default_rng(3).random((*shape, 3), np.float32)
    # One half is dark: a tile's own means would not do.
    picture[:, : shape[1] // 2] *= 0.2
    mix = np.array([0.7, 0.3], np.float32)
    whole = model.paint(picture, mix)
    tiled = model.paint(picture, mix, side=32)
    assert np.abs(tiled - whole).max() < 1e-4
    assert tiled.shape == picture.shape


def test_normalization_by_hand():
    network = stylizer.Network(CONFIG, 2)
    photo = tf.random.stateless_uniform([1, 16, 16, 3], [0, 1])
    mix = tf.constant([[0.25, 0.5]])
    before = network(photo, mix, before=0).numpy()
    after_relu = np.maximum(
        (before - before.mean((1, 2))) / np.sqrt(before.var((1, 2)) + 1e-3) * 0.75, 0
    )  # scales are 1 and shifts 0 at first: 0.25 + 0.5
    kernel = network.quarter.numpy()
    padded = np.pad(after_relu, [(0, 0), (1, 1), (1, 1), (0, 0)], "reflect")
    expected = np.einsum("hwc,hwco->o", padded[0, 2:5, 4:7], kernel)  # the place (1, 2)
    np.testing.assert_allclose(network(photo, mix, before=1)[0, 1, 2], expected, atol=1e-4)


def test_files_keep_their_size_and_stand_upright(model, photo):
    painted = from_bytes(model, file(photo), b"blues", strength=0.2)
    assert painted.shape == photo.shape
    expected = stylized(model, photo, [0.0, 1.0], 0.2)
    assert np.abs(painted - expected).mean() < 0.05  # noise, as JPEG
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = from_bytes(model, file(photo, "JPEG", exif=exif.tobytes()), strength=0.0)
    assert turned.shape == (77, 90, 3)


def test_a_file_of_strength_zero_is_the_photo(model):
    smooth = np.linspace(0, 1, 48 * 64 * 3, dtype=np.float32).reshape(48, 64, 3)
    painted = from_bytes(model, file(smooth), strength=0.0)
    assert -10 * np.log10(np.square(painted - smooth).mean()) > 30


def test_the_answer_is_jpeg_or_png_as_asked(model, photo):
    encoded = tf.constant([file(photo)] * 3)
    ask = functools.partial(signatures(model)["stylize_bytes"], style=tf.constant([b"reds"] * 3))
    answer = ask(image_bytes=encoded, format=tf.constant([b"png", b"jpeg", b"png"]))["image_bytes"].numpy()
    pictures = [Image.open(io.BytesIO(each)) for each in answer]
    assert [picture.format for picture in pictures] == ["PNG", "JPEG", "PNG"]
    # A PNG holds what was painted, to the level.
    painted = stylized(model, np.round(photo * 255) / 255, [1.0, 0.0])
    assert np.abs(np.asarray(pictures[0], np.float32) / 255.0 - painted).max() <= 1 / 255
    assert ask(image_bytes=encoded)["image_bytes"][0] == answer[1]  # JPEG, where nothing is said
    with pytest.raises(tf.errors.InvalidArgumentError, match="format: jpeg or png is expected"):
        ask(image_bytes=encoded, format=tf.constant([b"webp"]))


def test_styles_are_mixed_by_name(model, photo):
    encoded = file(photo)
    one = from_bytes(model, encoded, b"reds:1,blues:3")
    other = from_bytes(model, encoded, b" blues:1.5, reds:0.5")
    assert np.abs(one - other).max() <= 1 / 255
    with pytest.raises(tf.errors.InvalidArgumentError, match="unknown style; the styles are reds, blues"):
        from_bytes(model, encoded, b"greens")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"could not correctly convert|StringToNumber"):
        from_bytes(model, encoded, b"reds:much")


def test_colours_are_kept(model):
    random = np.random.default_rng(5)
    photo = np.ones((32, 48, 3), np.float32) * (0.3 + 0.4 * random.random(3, np.float32))
    photo += 0.1 * np.sin(np.arange(48) / 9)[None, :, None].astype(np.float32)
    painted = images.with_color_of(
        tf.constant(stylized(model, photo, [1.0, 0.0])), tf.constant(photo)
    ).numpy()
    light = gatys.luminance(stylized(model, photo, [1.0, 0.0]))
    np.testing.assert_allclose(painted, gatys.with_luminance(photo, light), atol=1e-6)
    got = from_bytes(model, file(photo), preserve_color=True)
    differences = [x - gatys.luminance(x)[..., None] for x in (got, photo)]
    assert np.abs(differences[0] - differences[1]).mean() < 0.02


@pytest.mark.parametrize(
    ("weights", "strength", "words"),
    [
        ([0.0, 0.0], 1.0, "style weights: at least one above 0"),
        ([1.0, -1.0], 1.0, "style weights: numbers of at least 0"),
        ([float("nan"), 1.0], 1.0, "style weights"),
        ([1.0, 0.0], 1.5, "strength: 0 to 1"),
        ([1.0, 0.0], float("nan"), "strength: 0 to 1"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(model, photo, weights, strength, words):
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        stylized(model, photo, weights, strength)


def test_pictures_that_are_too_small_or_too_large_are_refused(model):
    with pytest.raises(tf.errors.InvalidArgumentError, match="at least 16 pixels a side"):
        stylized(model, np.zeros((15, 40, 3), np.float32), [1.0, 0.0])
    declared = file(np.zeros((1, 1, 3)))
    declared = declared[:16] + (20_000).to_bytes(4, "big") * 2 + declared[24:]
    with pytest.raises(tf.errors.InvalidArgumentError, match="too many pixels"):
        from_bytes(model, declared)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"style_dir": ""}, "style_dir is empty"),
        ({"styles": ("greens",)}, "there is no .*greens.png"),
        ({"vgg19_weights": "/nowhere.h5"}, "no file of VGG19 weights"),
    ],
)
def test_what_training_misses_is_one_clear_error(change, words):
    with pytest.raises(UserError, match=words):
        stylizer.Targets(dataclasses.replace(CONFIG, **change))


def test_the_loss_is_that_of_gatys():
    targets = stylizer.Targets(CONFIG)
    random = np.random.default_rng(4)
    photo, painted = (tf.constant(random.random((1, 16, 16, 3), np.float32)) for _ in range(2))
    content, style, _ = targets.losses(photo, painted, tf.constant([1]))
    config = gatys.Config()
    vgg = gatys.network(config, vgg19.RANDOM)
    painting = stylizer.pictures.load(stylizer._find(CONFIG, "blues"))
    seen, of_style = vgg(painted), vgg(tf.constant(painting[None]))
    wanted = sum(
        0.2 * gatys.style_loss(gatys.gram(seen[n]), gatys.gram(of_style[n]))[0] for n in config.style_layers
    )
    nothing = sum(0.05 * tf.reduce_mean(gatys.gram(of_style[n]) ** 2) for n in config.style_layers)
    assert float(style[0]) == pytest.approx(float(wanted / nothing), rel=1e-4)
    of_content = 1e-3 * gatys.content_loss(seen["block4_conv2"], vgg(photo)["block4_conv2"])[0]
    # As if there were as many pixels as in 256x256.
    assert float(content[0]) == pytest.approx(float(256 * of_content / nothing), rel=1e-4)


def film(noise):
    """A still picture with fresh noise in each of eight frames."""
    random = np.random.default_rng(6)
    still = 0.2 + 0.6 * random.random((32, 48, 3), np.float32)
    return [np.clip(still + random.normal(0, noise, still.shape), 0, 1).astype(np.float32) for _ in range(8)]


def test_frames_without_smoothing_are_pictures(model):
    mix = np.array([0.4, 0.6], np.float32)
    frames = film(0.02)
    for frame, painted in zip(frames, model.paint_frames(iter(frames), mix, smoothing=0.0), strict=True):
        np.testing.assert_allclose(painted, model.paint(frame, mix), atol=1e-5)


def test_what_stands_still_flickers_less(model):
    mix = np.array([0.4, 0.6], np.float32)
    flicker = {
        smoothing: np.abs(np.diff(list(model.paint_frames(film(0.02), mix, smoothing)), axis=0))[3:].mean()
        for smoothing in (0.0, 0.8)
    }
    assert flicker[0.8] < 0.5 * flicker[0.0]


def test_a_cut_begins_anew(model):
    mix = np.array([1.0, 0.0], np.float32)
    first, second = np.full((32, 48, 3), 0.1, np.float32), film(0.0)[0]
    *_, painted = model.paint_frames([first, first, second], mix)
    np.testing.assert_allclose(painted, model.paint(second, mix), atol=1e-5)
