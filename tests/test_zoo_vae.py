"""The VAE's bound by hand-worked numbers, and what its parts promise."""

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import zoo
from zoo import vae

# Losses -----------------------------------------------------------------------------------------


def test_kl_divergence_by_hand_and_by_sampling():
    mean, log_variance = tf.constant([[2.0, 0.0, 1.0]]), tf.constant([[0.0, 0.0, math.log(0.25)]])
    kl = vae.kl_divergence(mean, log_variance).numpy()
    # ½ (4 + 1 - 0 - 1), 0, ½ (1 + ¼ + log 4 - 1)
    np.testing.assert_allclose(kl, [[2.0, 0.0, 0.5 * (0.25 + math.log(4.0))]], rtol=1e-6)
    z = mean + tf.exp(0.5 * log_variance) * tf.random.stateless_normal([200_000, 3], seed=[1, 2])
    zero = tf.zeros([])
    ratio = vae.normal_log_density(z, mean, log_variance) - vae.normal_log_density(z, zero, zero)
    assert float(tf.reduce_mean(ratio)) == pytest.approx(float(kl.sum()), abs=0.02)


def test_the_normal_density_by_hand():
    # N(1; 3, 4) = exp(-½ 4/4) / sqrt(2 pi 4), and the standard one at 0.
    mean, log_variance = tf.constant([3.0, 0.0]), tf.math.log([4.0, 1.0])
    log_density = vae.normal_log_density(tf.constant([1.0, 0.0]), mean, log_variance)
    want = -0.5 - 0.5 * math.log(8 * math.pi) - 0.5 * math.log(2 * math.pi)
    assert float(log_density) == pytest.approx(want, rel=1e-6)


def test_bernoulli_log_likelihood_by_hand():
    image = tf.reshape([[1.0, 0.0], [1.0, 1.0]], [2, 1, 2, 1])
    logits = tf.reshape([[0.0, math.log(3.0)], [math.log(3.0), -100.0]], [2, 1, 2, 1])
    # log ½ + log ¼; log ¾ + log σ(-100), which is -100 to float precision
    want = [math.log(1 / 8), math.log(3 / 4) - 100.0]
    np.testing.assert_allclose(vae.bernoulli_log_likelihood(image, logits), want, rtol=1e-6)


@pytest.mark.parametrize(
    ("location", "log_scale"), [(0.5, -2.3), (0.0, -5.0), (1.02, -3.0), (-3.0, -1.0), (0.3, -7.0), (0.5, 3.0)]
)
def test_the_256_levels_have_all_the_mass_of_the_logistic_distribution(location, log_scale):
    levels = tf.reshape(tf.range(256.0) / 255.0, [256, 1, 1, 1])
    log_mass = vae.logistic_log_likelihood(
        levels, tf.fill([256, 1, 1, 1], location), tf.fill([256, 1, 1, 1], log_scale)
    ).numpy()
    assert np.isfinite(log_mass).all()
    assert np.exp(log_mass.astype(np.float64)).sum() == pytest.approx(1.0, abs=1e-5)


def test_logistic_log_likelihood_by_hand_at_the_edges_in_the_middle_and_far_out():
    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    def of(level, location, scale):
        tensors = (tf.fill([1, 1, 1, 1], v) for v in (level / 255, location, math.log(scale)))
        return float(vae.logistic_log_likelihood(*tensors)[0])

    assert of(0, 0.25, 0.1) == pytest.approx(math.log(sigmoid((0.5 / 255 - 0.25) / 0.1)), rel=1e-5)
    assert of(255, 0.25, 0.1) == pytest.approx(math.log(1 - sigmoid((254.5 / 255 - 0.25) / 0.1)), rel=1e-5)
    middle = sigmoid((100.5 / 255 - 0.25) / 0.1) - sigmoid((99.5 / 255 - 0.25) / 0.1)
    assert of(100, 0.25, 0.1) == pytest.approx(math.log(middle), rel=1e-4)
    # 200 scales away the mass is exp(-a) (1 - exp(-width)), below any float32.
    a, width = (199.5 / 255 - 0.25) / 0.0025, 1 / 255 / 0.0025
    assert of(200, 0.25, 0.0025) == pytest.approx(-a + math.log(1 - math.exp(-width)), rel=1e-4)


def test_a_level_is_read_from_the_nearest_float_and_every_gradient_is_finite():
    location, log_scale = tf.Variable(tf.fill([3, 1, 1, 1], 0.9)), tf.Variable(tf.fill([3, 1, 1, 1], -6.5))
    image = tf.reshape([0.0, 100.2 / 255, 1.0], [3, 1, 1, 1])
    with tf.GradientTape() as tape:
        log_mass = vae.logistic_log_likelihood(image, location, log_scale)
    exact = vae.logistic_log_likelihood(tf.round(image * 255) / 255, location, log_scale)
    np.testing.assert_array_equal(log_mass, exact)
    assert all(np.isfinite(g.numpy()).all() for g in tape.gradient(log_mass, [location, log_scale]))


def test_free_bits_by_hand():
    kl = tf.constant([[0.1, 2.0], [0.2, 4.0]])
    # 0.5 for the first dimension, whose mean is 0.15; 3 for the second.
    assert float(vae.with_free_bits(kl, tf.reduce_mean(kl, axis=0), 0.5)) == pytest.approx(3.5)
    with tf.GradientTape() as tape:
        tape.watch(kl)
        cost = vae.with_free_bits(kl, tf.reduce_mean(kl, axis=0), 0.5)
    np.testing.assert_allclose(tape.gradient(cost, kl), [[0.0, 0.5], [0.0, 0.5]])


def test_the_importance_weighted_bound_by_hand():
    log_weights = tf.math.log([[1.0, 3.0], [2.0, 2.0]])
    np.testing.assert_allclose(vae.importance_weighted_bound(log_weights), [math.log(2.0)] * 2, rtol=1e-6)
    far = tf.constant([[-1000.0, -1000.0]])
    assert float(vae.importance_weighted_bound(far)[0]) == pytest.approx(-1000.0)


def test_spherical_interpolation_by_hand():
    start, end = tf.constant([[2.0, 0.0]] * 3), tf.constant([[0.0, 2.0]] * 3)
    between = vae.spherical(start, end, tf.constant([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(between, [[2, 0], [math.sqrt(2), math.sqrt(2)], [0, 2]], atol=1e-6)
    # In one line from the origin: halfway on it, through the origin too; from the origin itself.
    ends = tf.constant([[4.0, 0.0], [-2.0, 0.0], [2.0, 2.0]])
    starts = tf.constant([[2.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    halfway = vae.spherical(starts, ends, tf.fill([3], 0.5))
    assert np.isfinite(halfway).all()
    np.testing.assert_allclose(halfway[:2], [[3.0, 0.0], [0.0, 0.0]], atol=1e-5)


# The bound of a model ---------------------------------------------------------------------------


def _model(seed=0, **changes):
    """A tiny model whose posterior is no longer the prior's width."""
    model = zoo.build("vae", dataclasses.replace(tiny.CONFIGS["vae"], **changes), seed)
    bias = model.encoder.get_layer("log_variance").bias
    bias.assign(tf.fill(bias.shape, -1.0))
    return model


VARIANTS = [
    {},
    {"likelihood": vae.Likelihood.LOGISTIC},
    {"conditional": True},
    {"conditional": True, "likelihood": vae.Likelihood.LOGISTIC, "image_shape": (16, 12, 3)},
    {"importance_samples": 4},
    {"beta": 2.0, "free_bits": 0.2, "blocks": 2},
    {"hidden": 0, "latent_dim": 32},  # 8x8 becomes 4x4: two numbers for each place of a map
]


def _batch(config, rows=16):
    image = np.random.default_rng(0).random((rows, *config.image_shape), dtype=np.float32)
    label = np.arange(rows, dtype=np.int32) % len(config.class_names)
    return tf.constant(image), tf.constant(label)


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_every_variant_trains(changes):
    model = _model(**changes)
    model.compile(keras.optimizers.Adam(1e-2))
    data = _batch(model.config)
    before = float(model.test_step(data)["negative_elbo"])
    for _ in range(10):
        losses = model.train_step(data)
    for metric in model.losses_tracked:
        metric.reset_state()
    assert all(np.isfinite(float(v)) for v in losses.values())
    assert float(model.test_step(data)["negative_elbo"]) < before


def test_what_is_minimised_is_the_weighted_sum_it_says():
    image, label = _batch(tiny.CONFIGS["vae"])

    def tracked(**changes):
        model = _model(**changes)
        return {k: float(v) for k, v in model.test_step((image, label)).items()}

    plain, doubled = tracked(), tracked(beta=2.0)
    assert plain["loss"] == pytest.approx(plain["negative_elbo"], rel=1e-6)
    # The same weights, so the same bound; only the weight of the KL changes what is minimised.
    assert doubled["negative_elbo"] == pytest.approx(plain["negative_elbo"], rel=1e-6)
    assert doubled["loss"] == pytest.approx(plain["loss"] + plain["kl"], rel=1e-5)
    free = tracked(free_bits=50.0)
    assert free["loss"] == pytest.approx(plain["negative_elbo"] - plain["kl"] + 6 * 50.0, rel=1e-5)
    weighted = tracked(importance_samples=64)
    assert weighted["loss"] < weighted["negative_elbo"] - 0.01


def _log_weights(model, image, label, noise):
    """log p(x, z_k) / q(z_k|x) of the z that `noise` `[B, k, D]` draws: `[B, k]`."""
    mean, log_variance = model.posterior(image, label)
    z = mean[:, None] + tf.exp(0.5 * log_variance)[:, None] * noise
    return model.log_likelihood(image, label, z) + vae.log_ratio(z, mean, log_variance)


def test_the_importance_weighted_bound_of_one_sample_is_the_elbo_and_rises_with_samples():
    model = _model()
    image, label = _batch(model.config, 4)
    image = tf.round(image)
    log_weights = _log_weights(model, image, label, tf.random.stateless_normal([4, 4096, 6], [1, 2]))
    draws = 500
    rows = [tf.repeat(x, draws, axis=0) for x in (image, label)]
    log_likelihood, kl = model.elbo_parts(*rows, tf.random.stateless_normal([4 * draws, 6], [3, 4]))
    elbo = tf.reshape(log_likelihood - kl, [4, draws])
    # In expectation; their spread gives the tolerance.
    spread = float(tf.reduce_max(tf.math.reduce_std(elbo, axis=1))) / math.sqrt(draws)
    one = tf.reduce_mean(log_weights, axis=1)
    np.testing.assert_allclose(one, tf.reduce_mean(elbo, axis=1), atol=5 * spread + 0.05)
    bounds = [
        float(tf.reduce_mean(vae.importance_weighted_bound(tf.reshape(log_weights, [-1, k]))))
        for k in (1, 8, 64, 4096)
    ]
    assert bounds == sorted(bounds)
    assert bounds[-1] > bounds[0] + 0.01


def test_the_bound_is_exact_where_the_posterior_is():
    """A decoder that ignores z has p(z|x) = p(z): with that posterior ELBO = log p(x)."""
    model = zoo.build("vae", tiny.CONFIGS["vae"])
    for weight in model.decoder.weights + model.encoder.get_layer("mean").weights:
        weight.assign(tf.zeros_like(weight))
    image, label = _batch(model.config, 3)
    log_likelihood, kl = model.elbo_parts(tf.round(image), label, tf.random.stateless_normal([3, 6], [1, 2]))
    np.testing.assert_allclose(kl, 0.0, atol=1e-6)
    np.testing.assert_allclose(log_likelihood, 64 * math.log(0.5), rtol=1e-6)
    noise = tf.random.stateless_normal([3, 5, 6], [1, 2])
    weights = _log_weights(model, tf.round(image), label, noise)
    np.testing.assert_allclose(weights, 64 * math.log(0.5), rtol=1e-5)


# Randomness -------------------------------------------------------------------------------------


def test_grey_is_binarised_by_the_seed_and_black_and_white_stay_as_they_are():
    elbo = _model().signatures()["elbo"]
    grey = tf.fill([1, 8, 8, 1], 0.5)
    seeds = [tf.constant([s], tf.int64) for s in (0, 0, 1)]
    first, again, other = (float(elbo(image=grey, seed=s)["elbo"][0]) for s in seeds)
    assert first == again != other
    model = _model()
    binary = tf.round(_batch(model.config)[0])
    highest = np.nextafter(np.float32(1), np.float32(0))
    uniform = tf.concat([tf.zeros([8, 64]), tf.fill([8, 64], highest)], axis=0)
    np.testing.assert_array_equal(vae.observed(model.config, binary, uniform), binary)
    uniform = tf.random.stateless_uniform([200, 64], [1, 2])
    drawn = vae.observed(model.config, tf.fill([200, 8, 8, 1], 0.3), uniform)
    assert set(np.unique(drawn)) == {0.0, 1.0}
    assert float(tf.reduce_mean(drawn)) == pytest.approx(0.3, abs=0.02)


def test_every_step_binarises_afresh():
    model = _model()
    model.compile(keras.optimizers.SGD(0.0))
    data = (tf.fill([16, 8, 8, 1], 0.5), tf.zeros([16], tf.int32))
    losses = []
    for _ in range(2):
        for metric in model.losses_tracked:
            metric.reset_state()
        losses.append(float(model.train_step(data)["negative_elbo"]))
    assert losses[0] != losses[1]


@pytest.mark.parametrize("changes", [{"free_bits": 0.5}, {"importance_samples": 3}], ids=str)
def test_two_replicas_learn_what_one_device_learns(mirrored, changes):
    image, label = _batch(tiny.CONFIGS["vae"])

    def learn(model, run):
        model.compile(keras.optimizers.SGD(1e-3))
        run(model)
        return [w.numpy() for w in model.trainable_variables]

    one = learn(_model(**changes), lambda model: model.train_step((image, label)))

    def halves(context):
        part = slice(8 * context.replica_id_in_sync_group, 8 * (context.replica_id_in_sync_group + 1))
        return image[part], label[part]

    with mirrored.scope():
        model = _model(**changes)
        data = mirrored.experimental_distribute_values_from_function(halves)
        two = learn(model, tf.function(lambda model: mirrored.run(model.train_step, args=(data,))))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


# Serving ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [*VARIANTS[:4], VARIANTS[-1]], ids=str)
def test_the_signatures_agree_with_each_other(changes):
    model = _model(**changes)
    signatures = model.signatures()
    assert list(signatures) == ["sample", "encode", "decode", "interpolate", "elbo", "likelihood"]
    requests = {k: {n: tf.constant(v) for n, v in r.items()} for k, r in model.example_requests().items()}
    inputs = {"label"} if model.config.conditional else set()
    assert set(requests["elbo"]) == {"image", "seed"} | inputs
    answers = {name: signatures[name](**request) for name, request in requests.items()}
    assert answers["sample"]["image"].shape == (3, *model.config.image_shape)
    codes = (3, model.config.latent_dim)
    assert answers["encode"]["mean"].shape == answers["encode"]["log_variance"].shape == codes
    # The ends of an interpolation are the two z, decoded.
    for row, z in ((0, "z_from"), (2, "z_to")):
        request = {"z": requests["interpolate"][z]} | {k: requests["decode"][k] for k in inputs}
        ends = signatures["decode"](**request)["image"]
        np.testing.assert_allclose(answers["interpolate"]["image"][row], ends[row], atol=1e-5)
    # The bound that is served is the one that training sees.
    uniform = tf.random.stateless_uniform([3, 1], [0, 0])  # not looked at: the image is black and white
    image = tf.round(requests["elbo"]["image"])
    label = requests["elbo"].get("label", tf.zeros([3], tf.int32))
    noise = vae.rng.row_normal(requests["elbo"]["seed"], model.config.latent_dim)
    if model.config.likelihood == vae.Likelihood.LOGISTIC:
        assert vae.observed(model.config, image, uniform) is image
    log_likelihood, kl = model.elbo_parts(image, label, noise)
    served = signatures["elbo"](**{**requests["elbo"], "image": image})["elbo"]
    np.testing.assert_allclose(served, log_likelihood - kl, rtol=1e-5)
    # Its parts are served, too.
    labels = {"label": label} if inputs else {}
    encoded = signatures["encode"](image=image, **labels)
    z = encoded["mean"] + tf.exp(0.5 * encoded["log_variance"]) * noise
    parts = signatures["likelihood"](image=image, z=z, **labels)["log_likelihood"]
    np.testing.assert_allclose(parts, log_likelihood, rtol=1e-5)


def test_the_code_may_be_a_map_of_the_image():
    model = _model(image_shape=(64, 64, 1), hidden=0, latent_dim=4 * 4 * 2)
    z = np.zeros((2, 4, 4, 2), np.float32)
    z[1, 0, 0] = 1.0
    plain, other = model.decoder(tf.constant(z.reshape(2, -1)), training=False).numpy()
    changed = np.abs(other - plain)[..., 0]
    assert changed[:16, :16].mean() > 100 * changed[-16:, -16:].mean()


def test_temperature_zero_is_the_middle_and_a_label_is_drawn_for_minus_one():
    sample = _model().signatures()["sample"]
    seeds = tf.range(4, dtype=tf.int64)
    middle = sample(seed=seeds, temperature=tf.constant([0.0]))["image"]
    np.testing.assert_allclose(middle, tf.repeat(middle[:1], 4, axis=0), atol=1e-6)
    assert not np.allclose(sample(seed=seeds)["image"], middle, atol=1e-4)

    conditional = _model(conditional=True).signatures()["sample"]
    drawn = conditional(seed=seeds)["image"]
    label = vae.rng.row_index(seeds, 10)
    np.testing.assert_allclose(drawn, conditional(seed=seeds, label=label)["image"], atol=1e-6)
    assert not np.allclose(drawn, conditional(seed=seeds, label=(label + 1) % 10)["image"], atol=1e-4)


@pytest.mark.parametrize(("signature", "label"), [("sample", 10), ("encode", -1), ("elbo", -1)])
def test_a_label_outside_the_classes_is_one_clear_error(signature, label):
    model = _model(conditional=True)
    request = {k: tf.constant(v) for k, v in model.example_requests()[signature].items()}
    with pytest.raises(tf.errors.InvalidArgumentError, match="a label is outside the range"):
        model.signatures()[signature](**{**request, "label": tf.fill([3], label)})


def test_previews_show_held_out_images_above_their_reconstructions():
    model = _model()
    examples = tiny.digits().examples()
    previews = model.preview(0, examples)
    codes = previews.pop("codes")
    assert codes.vectors.shape == (len(examples[0]), 6)
    assert codes.labels == tuple(map(str, examples[1]))
    assert {k: v.shape[:2] for k, v in previews.items()} == {
        "samples": (8, 10),
        "reconstructions": (8, 10),
        "walk": (8, 10),
    }
    np.testing.assert_array_equal(previews["reconstructions"][2], examples[0][10:20])
    assert not np.allclose(previews["samples"], model.preview(1, examples)["samples"])


@pytest.mark.parametrize(
    "changes",
    [
        {"image_shape": (7, 8, 1)},
        {"channels": 0},
        {"beta": -1.0},
        {"free_bits": float("nan")},
        {"importance_samples": 0},
        {"importance_samples": 5, "beta": 2.0},
        {"hidden": -1},
        {"latent_dim": 50, "hidden": 0},
        {"conditional": True, "hidden": 0, "latent_dim": 49},
    ],
    ids=str,
)
def test_a_config_that_cannot_be_names_its_field(changes):
    field, value = next(iter(changes.items()))
    with pytest.raises(ValueError) as told:
        vae.Config(**changes).validate()
    assert f"{field}={value}" in str(told.value)
