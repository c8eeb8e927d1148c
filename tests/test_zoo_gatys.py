"""Gatys' style transfer: its losses by hand, what it promises of a picture, and its signature.

Most tests look at the first two blocks of VGG19 alone, with random weights: a loss is a loss.
"""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from serving import export, portable, servable
from zoo import gatys, vgg19
from zoo.errors import UserError
from zoo.minimizers import Minimizer

SHALLOW = gatys.Config(
    content_layer="block2_conv1", style_layers={"block1_conv1": 0.5, "block2_conv1": 0.5}, steps=4
)


def _picture(seed, height=32, width=40):
    """Smooth noise: its neighbouring pixels resemble each other, as in a photo."""
    noise = np.random.default_rng(seed).random([height // 4, width // 4, 3], np.float32)
    return np.clip(tf.image.resize(noise, [height, width], "bicubic").numpy(), 0.0, 1.0)


PHOTO, PAINTING, OTHER = _picture(0), _picture(1, 24, 24), _picture(2, 40, 32)


@pytest.fixture(scope="module")
def vgg():
    return gatys.network(SHALLOW, vgg19.RANDOM)


def _objective(vgg, photo, styles, weights=(1.0,), masks=None, **changes):
    config = dataclasses.replace(SHALLOW, **changes)
    return gatys.Objective(config, vgg, photo, styles, np.array(weights), masks)


def _at(objective, image):
    loss, gradient = objective(tf.constant(image.reshape(-1)))
    return float(loss), gradient.numpy().reshape(image.shape)


# Losses -----------------------------------------------------------------------------------------

TWO_PLACES = tf.constant([[[[1.0, 2.0], [3.0, 4.0]]]])  # [1, 1, 2, 2]


def test_gram_by_hand():
    np.testing.assert_allclose(gatys.gram(TWO_PLACES)[0], [[5, 7], [7, 10]])
    second = tf.constant([[[0.0, 1.0]], [[0.5, 0.5]]])  # [2, 1, 2]
    found = gatys.gram(TWO_PLACES, second)
    np.testing.assert_allclose(found, [[[9, 12], [12, 16]], [[5, 7], [7, 10]]])


def test_style_and_content_loss_by_hand():
    painted, style = gatys.gram(TWO_PLACES), tf.constant([[[5.0, 6.0], [6.0, 8.0]]])
    # Differences 0, 1, 1, 2; squares 6; by 4 * 2 * 2.
    np.testing.assert_allclose(gatys.style_loss(painted, style), [6 / 16])
    np.testing.assert_allclose(gatys.content_loss(TWO_PLACES, tf.zeros_like(TWO_PLACES)), [15.0])


def test_total_variation_by_hand():
    image = np.zeros([1, 2, 3, 1], np.float32)
    image[0, 0, 1] = 4 / 255
    # Left of it: (4² + 0²)^1.25 = 32; at it: (4² + 4²)^1.25 = 76.11; the last column has no neighbour.
    np.testing.assert_allclose(gatys.total_variation(image), [32 + 32**1.25], rtol=1e-5)
    assert gatys.total_variation(np.ones([1, 4, 4, 3], np.float32)) == 0


def _square(path):
    picture = Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.float32) / 255


def test_the_loss_that_the_reference_starts_from(shared_data):
    config = gatys.Config(steps=1)
    network = gatys.network(config, str(shared_data / "vgg19" / "vgg19_imagenet_notop_q8.h5"))
    photo = _square(shared_data / "content_images" / "tubingen.jpg")
    painting = _square(shared_data / "style_images" / "van_gogh_starry_night_1889.jpg")
    result = gatys.stylize(photo, [painting], config, vgg=network)
    assert result.loss == pytest.approx(3.374e9, rel=1e-3)
    np.testing.assert_array_equal(result.image, photo)


# Objective --------------------------------------------------------------------------------------


def test_the_gradient_is_the_loss_slope(vgg):
    objective = _objective(vgg, PHOTO, [PAINTING], tv_weight=0.1)
    image = _picture(5)
    loss, gradient = _at(objective, image)
    way = gradient / np.linalg.norm(gradient)
    ahead, behind = (_at(objective, image + step * way)[0] for step in (0.02, -0.02))
    assert loss > 0
    assert (ahead - behind) / 0.04 == pytest.approx(np.sum(gradient * way), rel=0.02)


@pytest.mark.parametrize("masked", [False, True], ids=["everywhere", "masks"])
def test_tiles_give_the_loss_and_gradient_of_the_whole(vgg, masked):
    photo, image = _picture(0, 67, 90), _picture(5, 67, 90)
    left = np.linspace(0, 1, 90, dtype=np.float32) * np.ones([67, 1], np.float32)
    more = {"weights": (1.0, 2.0), "masks": np.stack([left, 1 - left])} if masked else {}
    styles = [_picture(1, 64, 80), OTHER] if masked else [_picture(1, 64, 80)]
    whole = _at(_objective(vgg, photo, styles, tv_weight=0.1, **more), image)
    tiled = _at(_objective(vgg, photo, styles, tv_weight=0.1, tile=16, **more), image)
    assert tiled[0] == pytest.approx(whole[0], rel=1e-5)
    np.testing.assert_allclose(tiled[1], whole[1], atol=1e-4 * np.abs(whole[1]).max())


def test_tiles_of_all_five_blocks_too():
    config = gatys.Config(tile=64)
    network = gatys.network(config, vgg19.RANDOM)
    photo, image = _picture(0, 32, 300), _picture(5, 32, 300)
    objectives = [
        gatys.Objective(dataclasses.replace(config, tile=t), network, photo, [PAINTING], np.ones(1), None)
        for t in (64, 640)
    ]
    (tiled, tiled_gradient), (whole, gradient) = (_at(o, image) for o in objectives)
    assert tiled == pytest.approx(whole, rel=1e-4)
    np.testing.assert_allclose(tiled_gradient, gradient, atol=1e-3 * np.abs(gradient).max())


def test_tiles_cover_each_pixel_once():
    for height, width in ((600, 200), (449, 449), (1025, 1300)):
        count = np.zeros([height, width], int)
        for tile in gatys.tiles(height, width, 256, 96):
            top, bottom, left, right = tile.core.numpy()
            crop = tile.crop(count)
            assert max(crop.shape) <= 256 + 2 * 96
            crop[top:bottom, left:right] += 1
        assert (count == 1).all()
    assert len(gatys.tiles(448, 448, 256, 96)) == 1


def test_styles_mix_by_their_weights(vgg):
    image = _picture(5)
    style_only = {"content_weight": 0.0}
    first, second, mixed, one = (
        _at(_objective(vgg, PHOTO, [PAINTING, OTHER], weights, **style_only), image)[1]
        for weights in ((1, 0), (0, 1), (3, 1), (1, 0))
    )
    alone = _at(_objective(vgg, PHOTO, [PAINTING], **style_only), image)[1]
    scale = np.abs(alone).max()
    np.testing.assert_allclose(one, alone, atol=1e-5 * scale)
    np.testing.assert_allclose(mixed, 0.75 * first + 0.25 * second, atol=1e-4 * scale)


def test_a_mask_keeps_a_style_in_its_region(vgg):
    """Nothing of a style that goes to the left half pulls at the right one."""
    left = np.zeros([32, 40], np.float32)
    left[:, :20] = 1.0
    masks = np.stack([left, np.zeros_like(left)])
    objective = _objective(vgg, PHOTO, [PAINTING, OTHER], (1, 1), masks, content_weight=0.0)
    gradient = _at(objective, _picture(5))[1]
    assert np.abs(gradient[:, :20]).max() > 0
    assert np.abs(gradient[:, 20 + vgg19.margin("block2_conv1") :]).max() == 0


def test_a_mask_of_all_is_no_mask(vgg):
    everywhere = np.ones([1, 32, 40], np.float32)
    masked = _at(_objective(vgg, PHOTO, [PAINTING], masks=everywhere), _picture(5))
    plain = _at(_objective(vgg, PHOTO, [PAINTING]), _picture(5))
    assert masked[0] == pytest.approx(plain[0], rel=1e-5)
    np.testing.assert_allclose(masked[1], plain[1], atol=1e-4 * np.abs(plain[1]).max())


# Painting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("minimizer", list(Minimizer))
@pytest.mark.parametrize("start", list(gatys.Start))
def test_the_loss_falls_and_is_that_of_the_picture(vgg, minimizer, start):
    config = dataclasses.replace(SHALLOW, minimizer=minimizer, start=start, steps=8)
    steps = list(gatys.paint(PHOTO, [PAINTING], config, vgg=vgg))
    losses = [step.loss for step in steps]
    assert [step.evaluation for step in steps] == list(range(1, 9))
    assert losses[-1] < 0.9 * losses[0]
    image = steps[-1].image
    assert image.shape == PHOTO.shape
    assert image.min() >= 0 and image.max() <= 1
    assert _at(_objective(vgg, PHOTO, [PAINTING]), image)[0] == pytest.approx(losses[-1], rel=1e-4)


def test_the_same_again_is_the_same_picture(vgg):
    config = dataclasses.replace(SHALLOW, start=gatys.Start.NOISE, seed=3)
    first, again = (gatys.stylize(PHOTO, [PAINTING], config, vgg=vgg).image for _ in range(2))
    np.testing.assert_array_equal(first, again)
    other = dataclasses.replace(config, seed=4)
    assert not np.array_equal(gatys.stylize(PHOTO, [PAINTING], other, vgg=vgg).image, first)


def test_without_style_the_photo_stays_as_it_is(vgg):
    result = gatys.stylize(PHOTO, [PAINTING], dataclasses.replace(SHALLOW, style_weight=0.0), vgg=vgg)
    assert result.loss == 0
    np.testing.assert_array_equal(result.image, PHOTO)


def test_coarse_to_fine_doubles_the_size(vgg):
    config = dataclasses.replace(SHALLOW, scales=2, steps=2)
    steps = list(gatys.paint(_picture(0, 50, 66), [PAINTING], config, vgg=vgg))
    assert [step.image.shape[:2] for step in steps] == [(25, 33)] * 2 + [(50, 66)] * 2
    assert [step.evaluation for step in steps] == [1, 2, 3, 4]
    assert steps[0].evaluations == 4


@pytest.mark.parametrize("scales", [1, 2])
def test_luminance_alone_is_painted_and_the_colours_stay_exactly(vgg, scales):
    photo = _picture(0, 32, 40)
    config = dataclasses.replace(SHALLOW, color=gatys.Color.LUMINANCE, scales=scales, steps=6)
    result = gatys.stylize(photo, [PAINTING], config, vgg=vgg)
    kept = result.image - gatys.luminance(result.image)[..., None]
    np.testing.assert_allclose(kept, photo - gatys.luminance(photo)[..., None], atol=1e-6)
    assert np.abs(gatys.luminance(result.image) - gatys.luminance(photo)).max() > 0.01


def test_a_luminance_that_the_colour_cannot_have_becomes_the_nearest():
    red = np.float32([[[1.0, 0.0, 0.0]]])  # no other colour differs from grey as it does
    np.testing.assert_allclose(gatys.with_luminance(red, np.float32([[0.9]])), red, atol=1e-6)
    pink = np.float32([[[0.8, 0.4, 0.4]]])  # luminance .5196
    found = gatys.with_luminance(pink, np.float32([[1.0]]))
    np.testing.assert_allclose(found, [[[1.0, 0.6, 0.6]]], atol=1e-6)


def test_matched_colours_have_the_photo_s_mean_and_covariance():
    photo, painting = 0.4 + 0.2 * _picture(0), 0.3 + 0.4 * _picture(1)
    matched = gatys.match_colors(painting, photo)
    assert matched.min() > 0 and matched.max() < 1  # nothing is clipped
    for statistic in (lambda x: x.mean(0), lambda x: np.cov(x.T)):
        a, b = (statistic(x.reshape(-1, 3).astype(np.float64)) for x in (matched, photo))
        np.testing.assert_allclose(a, b, atol=1e-5)
    config = dataclasses.replace(SHALLOW, color=gatys.Color.HISTOGRAM)
    assert config.color == "histogram"


def test_histogram_paints_with_the_matched_painting(vgg):
    photo, config = 0.4 + 0.2 * _picture(0), dataclasses.replace(SHALLOW, steps=3)
    own = gatys.stylize(photo, [gatys.match_colors(PAINTING, photo)], config, vgg=vgg)
    config = dataclasses.replace(config, color=gatys.Color.HISTOGRAM)
    np.testing.assert_allclose(gatys.stylize(photo, [PAINTING], config, vgg=vgg).image, own.image, atol=1e-5)


def test_bfloat16_paints_almost_the_same_picture(vgg):
    config = dataclasses.replace(SHALLOW, steps=10)
    exact = gatys.stylize(PHOTO, [PAINTING], config, vgg=vgg)
    config = dataclasses.replace(config, dtype="bfloat16")
    short = gatys.stylize(PHOTO, [PAINTING], config, vgg=gatys.network(config, vgg19.RANDOM))
    loss = _at(_objective(vgg, PHOTO, [PAINTING]), short.image)[0]  # judged in float32
    assert loss == pytest.approx(exact.loss, rel=0.05)


MASK = np.ones([32, 40], np.float32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"content": PHOTO[:1, :1]}, "the photo is 1x1 pixels; at least 16x16 are expected"),
        ({"config": {"scales": 3}}, "the photo is 40x32 pixels; at least 64x64 are expected for 3 scales"),
        ({"content": PHOTO[..., 0]}, r"the photo has shape \(32, 40\): \[height, width, 3\]"),
        ({"content": PHOTO * 255}, r"the photo holds numbers outside \[0, 1\]"),
        ({"styles": [PAINTING, PAINTING * np.nan]}, r"style 2 holds numbers outside \[0, 1\]"),
        ({"styles": []}, "no style is given"),
        ({"style_weights": [1.0, 2.0]}, r"style weights \[1.0, 2.0\]: 1 numbers"),
        ({"style_weights": [-1.0]}, r"style weights \[-1.0\]"),
        ({"masks": [MASK, MASK]}, "2 masks for 1 styles"),
        ({"masks": [MASK[1:]]}, r"mask 1 has shape \(31, 40\); that of the photo, \(32, 40\)"),
        ({"masks": [2 * MASK]}, r"mask 1 holds numbers outside \[0, 1\]"),
        ({"masks": [0 * MASK]}, "the masks are empty"),
        ({"config": {"steps": 0}}, "steps=0"),
        ({"config": {"tv_weight": -1.0}}, "tv_weight=-1.0: a number of at least 0"),
        ({"config": {"dtype": "float16"}}, "dtype=float16: float32 or bfloat16"),
        ({"config": {"content_layer": "fc1"}}, "'fc1' is no layer of VGG19"),
    ],
)
def test_what_cannot_be_painted_is_one_clear_error(vgg, arguments, message):
    config = dataclasses.replace(SHALLOW, **arguments.pop("config", {}))
    given = {"content": PHOTO, "styles": [PAINTING], "vgg": vgg} | arguments
    with pytest.raises(UserError, match=message):
        gatys.stylize(given.pop("content"), given.pop("styles"), config, **given)


# Serving ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return gatys.Model(SHALLOW, vgg19.RANDOM)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return export.export(model, tmp_path_factory.mktemp("models"), "gatys", {"name": "gatys"})


def test_the_signature_has_the_design_s_names_and_batch_dimensions(model):
    (name,) = model.signatures()
    function = model.signatures()[name].get_concrete_function()
    inputs = {spec.name: spec for spec in function.structured_input_signature[0]}
    assert name == "stylize"
    assert list(inputs) == ["content", "style", "steps", "content_weight", "style_weight", "tv_weight"]
    outputs = function.structured_outputs
    assert set(outputs) == {"image", "loss"}
    assert all(spec.shape[0] is None for spec in (*inputs.values(), *outputs.values()))


def test_a_row_is_what_the_library_paints(model, vgg):
    request = model.example_requests()["stylize"]
    answer = model.signatures()["stylize"](**{k: tf.constant(v) for k, v in request.items()})
    for row in range(2):
        config = dataclasses.replace(
            SHALLOW,
            steps=int(request["steps"][row]),
            **{k: float(request[k][row]) for k in ("content_weight", "style_weight", "tv_weight")},
        )
        result = gatys.stylize(request["content"][row], [request["style"][row]], config, vgg=vgg)
        np.testing.assert_allclose(answer["image"][row], result.image, atol=1e-4)
        assert float(answer["loss"][row]) == pytest.approx(result.loss, rel=1e-4)


DEEPER = dataclasses.replace(SHALLOW, content_layer="block3_conv1")  # which Winograd's algorithm convolves


def test_a_signature_of_deep_layers_holds_no_weights_but_the_network_s_own():
    deeper = gatys.Model(DEEPER, vgg19.RANDOM)
    painted = gatys.stylize(PHOTO, [PAINTING], DEEPER, vgg=deeper.vgg)
    layer = deeper.vgg.get_layer("block3_conv1")
    kept = layer.transformed
    assert kept is not None
    stylize = deeper.signatures()["stylize"]
    answer = stylize(PHOTO[None], PAINTING[None], steps=tf.constant([4]))
    assert layer.transformed is kept
    captured = stylize.get_concrete_function().captured_inputs
    assert all(tensor.dtype == tf.resource for tensor in captured)
    np.testing.assert_allclose(answer["image"][0], painted.image, atol=1e-4)


def test_prepared_features_are_the_same():
    network = vgg19.features(["block3_conv1", "block4_conv2"], vgg19.RANDOM)
    photo = tf.constant(PHOTO[None])
    before = network(photo)
    after = vgg19.prepared(network)(photo)
    for name, expected in before.items():
        assert not np.array_equal(after[name], expected)  # another algorithm
        np.testing.assert_allclose(after[name], expected, atol=1e-4 * np.abs(expected).max())


def test_options_may_be_left_out_or_be_of_length_one(model):
    stylize = model.signatures()["stylize"]
    content, style = np.stack([PHOTO, PHOTO[::-1]]), np.stack([PAINTING, PAINTING])
    given = {"steps": [4, 4], "content_weight": [1e-3] * 2, "style_weight": [1.0] * 2, "tv_weight": [0.0] * 2}
    full = stylize(content, style, **{k: tf.constant(v) for k, v in given.items()})
    short = stylize(content, style, steps=tf.constant([4]))
    np.testing.assert_array_equal(full["image"], short["image"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": [0]}, "steps: at least 1 is expected"),
        ({"steps": [1001]}, "steps: at most 1000 is expected"),
        ({"tv_weight": [-1.0]}, "tv_weight: at least 0.0 is expected"),
        ({"style_weight": [np.nan]}, "style_weight: at least 0.0 is expected"),
        ({"content": np.zeros([1, 15, 40, 3], np.float32)}, "content: pixels a side: at least 16"),
        ({"style": np.zeros([1, 16, 1025, 3], np.float32)}, "style: pixels a side: at most 1024"),
    ],
)
def test_a_request_out_of_range_fails_with_a_clear_message(model, change, message):
    request = {"content": PHOTO[None], "style": PAINTING[None], "steps": [1]} | change
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        model.signatures()["stylize"](**{k: tf.constant(v) for k, v in request.items()})


def test_the_export_is_portable(exported):
    """`export` itself proves each export; here once more, and that the proof sees the loss."""
    assert portable.faults(exported) == []
    ((_, expected),) = [v for k, v in portable.golden_requests(exported).items() if k == "stylize"]
    assert (expected["loss"] > 0).all()


def test_a_deadline_stops_the_optimisation(exported):
    served = servable.Servable(str(exported), ["serve"], tf.compat.v1.ConfigProto())
    try:
        signature = served.signature_defs["stylize"]
        picture = np.zeros([1, 512, 512, 3], np.float32)
        given = {"content": picture, "style": 1 - picture, "steps": np.int32([1000])}
        given |= {k: np.float32([1.0]) for k in ("content_weight", "style_weight", "tv_weight")}
        feeds = {signature.inputs[k].name: v for k, v in given.items()}
        fetches = [signature.outputs["loss"].name]
        with pytest.raises(tf.errors.DeadlineExceededError):
            served.run(feeds, fetches, timeout=1.0)
        feeds[signature.inputs["steps"].name] = np.int32([1])
        assert served.run(feeds, fetches, timeout=None)[0].shape == (1,)
    finally:
        served.close()
