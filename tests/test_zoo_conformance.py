"""What every family promises, one property a test. A new family joins by its line in tiny.CONFIGS."""

import dataclasses
import itertools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import zoo
from zoo import base

FAMILIES = sorted(zoo.FAMILIES)
# The design's table of signatures; the first is also serving_default.
SIGNATURES = {
    "arbitrary_stylizer": {
        "stylize": ({"image", "style_image", "strength"}, {"image"}),
        "stylize_bytes": (
            {"image_bytes", "style_bytes", "strength", "preserve_color", "format"},
            {"image_bytes"},
        ),
    },
    "autoencoder": {
        "reconstruct": ({"image"}, {"image"}),
        "encode": ({"image"}, {"code"}),
        "decode": ({"code"}, {"image"}),
        "denoise": ({"image"}, {"image"}),
        "compress": ({"image_bytes"}, {"code_bytes"}),
        "decompress": ({"code_bytes"}, {"image_bytes"}),
    },
    "chorales": {
        "generate": ({"notes", "seed", "temperature"}, {"notes"}),
        "harmonize": ({"soprano", "seed", "temperature"}, {"notes"}),
        "score": ({"notes"}, {"nll", "voice_nll", "count"}),
    },
    "cnn": {
        "classify": ({"image"}, {"probabilities", "label", "embedding"}),
        "classify_bytes": ({"image_bytes"}, {"probabilities", "label", "embedding"}),
        "classify_examples": ({"inputs"}, {"classes", "scores"}),
        "explain": ({"image", "class_id"}, {"heatmap"}),
    },
    "gan": {
        "sample": ({"seed", "label", "truncation"}, {"image", "label"}),
        "generate": ({"z", "label"}, {"image"}),
        "discriminate": ({"image", "label"}, {"logit"}),
    },
    "vae": {
        "sample": ({"seed", "temperature"}, {"image"}),
        "encode": ({"image"}, {"mean", "log_variance"}),
        "decode": ({"z"}, {"image"}),
        "interpolate": ({"z_from", "z_to", "fraction"}, {"image"}),
        "elbo": ({"image", "seed"}, {"elbo"}),
        "likelihood": ({"image", "z"}, {"log_likelihood"}),
    },
    "rnn": {
        "generate": ({"prompt", "seed", "length", "temperature", "top_k", "top_p"}, {"text"}),
        "score": ({"text"}, {"nll", "count"}),
    },
    "stylizer": {
        "stylize": ({"image", "style_weights", "strength"}, {"image"}),
        "stylize_bytes": ({"image_bytes", "style", "strength", "preserve_color", "format"}, {"image_bytes"}),
    },
}


def _run(signature, request):
    tensors = {k: tf.constant(v.tolist() if v.dtype == object else v) for k, v in request.items()}
    return {k: v.numpy() for k, v in signature(**tensors).items()}


@pytest.fixture(params=FAMILIES)
def model(request):
    return zoo.build(request.param, tiny.CONFIGS[request.param])


def _family(model):
    return type(model).__module__.removeprefix("zoo.")


def test_every_family_has_a_tiny_config_and_a_row_in_the_table():
    assert set(tiny.CONFIGS) == set(SIGNATURES) == set(zoo.FAMILIES)
    assert set(tiny.DATA) == set(tiny.BROKEN) == set(zoo.FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_default_config_is_valid_and_builds(family):
    model = zoo.build(family)
    assert all(network.weights for network in model.networks.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_seeds_build_equal_weights_and_other_seeds_do_not(family):
    first, again, other = (
        zoo.build(family, tiny.CONFIGS[family], seed).get_weights() for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_step_changes_the_weights_and_returns_the_named_finite_losses(model):
    model.compile(keras.optimizers.Adam(1e-2))
    before = [w.numpy() for w in model.trainable_variables]
    losses = model.train_step(tiny.batch(_family(model)))
    assert list(losses) == [m.name for m in model.losses_tracked]
    assert all(np.isfinite(float(v)) for v in losses.values())
    changed = [
        not np.array_equal(a, b.numpy())
        for a, b in zip(before, model.trainable_variables, strict=True)
    ]
    assert any(changed)


def test_fit_and_evaluate_work_as_in_a_notebook(model):
    x, y = tiny.batch(_family(model), 32)
    model.compile(keras.optimizers.Adam(1e-3))
    history = model.fit(x, y, batch_size=16, epochs=2, verbose=0).history
    held_out = model.evaluate(x, y, batch_size=16, verbose=0, return_dict=True)
    names = {m.name for m in model.losses_tracked}
    assert set(history) == set(held_out) == names
    assert all(np.isfinite(v).all() for v in history.values())


def test_fit_works_under_mirrored_strategy(mirrored):
    with mirrored.scope():
        # Batch statistics, two optimizers, recurrence; the trainer's own loop is tested with every family.
        for family in ("cnn", "gan", "rnn"):
            model = zoo.build(family, tiny.CONFIGS[family])
            model.compile(keras.optimizers.Adam(1e-3))
            data = tf.data.Dataset.from_tensor_slices(tiny.batch(family, 32)).batch(16)
            history = model.fit(data, epochs=1, verbose=0).history
            assert all(np.isfinite(v).all() for v in history.values())


def test_every_weight_is_in_a_checkpoint(family_of_two, tmp_path):
    """`tf.train.Checkpoint` does not see networks that only a list or a dict holds."""
    model, other = family_of_two
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "ckpt"))
    tf.train.Checkpoint(model=other).restore(path).expect_partial()
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        assert np.array_equal(a, b)


@pytest.fixture(params=FAMILIES)
def family_of_two(request):
    return tuple(zoo.build(request.param, tiny.CONFIGS[request.param], seed) for seed in (1, 2))


def test_previews_repeat_and_are_images_text_notes_or_points(model):
    examples = tiny.DATA[_family(model)]().examples()
    first, again = model.preview(3, examples), model.preview(3, examples)
    assert first
    assert model.showpiece in ("", *first)
    for name, value in first.items():
        if isinstance(value, str):
            assert value and value == again[name]
            continue
        if isinstance(value, base.Embedding):
            assert np.array_equal(value.vectors, again[name].vectors)
            assert value.vectors.shape[:1] == (len(value.labels),)
            assert value.images is None or len(value.images) == len(value.labels)
            assert not any(set("\t\n") & set(label) for label in value.labels), "they are rows of a table"
            continue
        assert np.array_equal(value, again[name])
        if value.dtype.kind == "i":
            assert value.ndim == 2, "frames, voices"
            assert value.max() <= 127
        else:
            assert value.ndim == 5, "rows, columns, H, W, C"
            assert value.dtype == np.float32
            assert value.min() >= 0 and value.max() <= 1


def test_signatures_carry_the_names_of_the_design(model):
    found = {}
    for name, function in model.signatures().items():
        concrete = function.get_concrete_function()
        inputs = {spec.name for spec in concrete.structured_input_signature[0]}
        found[name] = (inputs, set(concrete.structured_outputs))
    assert found == SIGNATURES[_family(model)]
    assert next(iter(found)) == next(iter(SIGNATURES[_family(model)]))
    assert set(model.example_requests()) == set(found)


def test_every_input_and_output_has_a_leading_batch_dimension(model):
    for name, function in model.signatures().items():
        concrete = function.get_concrete_function()
        specs = [
            *concrete.structured_input_signature[0],
            *concrete.structured_outputs.values(),
        ]
        assert all(spec.shape.rank >= 1 and spec.shape[0] is None for spec in specs), name


def test_a_row_of_a_signature_does_not_see_the_other_rows(model):
    signatures = model.signatures()
    for (name, request), rows in itertools.product(model.example_requests().items(), (1, 7, 64)):
        whole = _run(signatures[name], request)
        pick = np.arange(rows) % len(next(iter(request.values())))
        parts = _run(signatures[name], {k: v[pick] for k, v in request.items()})
        for key, values in parts.items():
            if values.dtype.kind == "f":
                np.testing.assert_allclose(values, whole[key][pick], atol=1e-5, err_msg=name)
            else:
                assert np.array_equal(values, whole[key][pick]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_that_cannot_work_is_one_clear_error(family):
    ((field, value),) = tiny.BROKEN[family].items()
    with pytest.raises(zoo.UserError, match=re.escape(f"{field}={value}")):
        zoo.build(family, dataclasses.replace(tiny.CONFIGS[family], **tiny.BROKEN[family]))
