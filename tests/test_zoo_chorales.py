"""The chorale model: its loss by hand, what each voice may know, and what composing promises."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tiny

import zoo
from zoo import chorales
from zoo.chorales import OPEN, SILENCE, START

CHORD = [67, 64, 60, 48]


@pytest.fixture(scope="module")
def model():
    """Weights large enough to prefer some notes to others."""
    made = zoo.build("chorales", tiny.CONFIGS["chorales"], seed=1)
    for weight in made.trainable_variables:
        weight.assign(weight * 3.0)
    return made


@pytest.fixture(scope="module")
def signatures(model):
    return model.signatures()


def piece(frames, seed=0):
    moves = np.random.default_rng(seed).integers(-5, 6, (1, frames, 4))
    return tf.constant(np.array(CHORD) + moves, tf.int32)


def blank(rows, frames):
    return tf.fill([rows, frames, 4], OPEN)


def test_a_note_s_loss_by_hand():
    # One note of 89 classes with logit log 9, the others 0: p = 9 / (9 + 88), else 1 / 97.
    notes = tf.constant([[60, 60, SILENCE, OPEN]])
    logits = np.zeros((1, 4, 89), np.float32)
    logits[..., 60 - 20] = math.log(9)
    logits[0, 1, 60 - 20], logits[0, 1, 61 - 20] = 0.0, math.log(9)
    want = [-math.log(9 / 97), math.log(97), math.log(97), 0.0]
    np.testing.assert_allclose(chorales.note_nll(notes, tf.constant(logits))[0], want, rtol=1e-6)


def test_codes_tell_all_that_can_stand_for_a_note_apart():
    notes = tf.constant([START, SILENCE, 21, 108])
    assert chorales.codes(notes).numpy().tolist() == [89, 0, 1, 88]


@pytest.mark.parametrize("voice", range(4))
def test_a_voice_knows_the_frames_before_and_the_voices_above(model, voice):
    notes = piece(5).numpy()
    changed = notes.copy()
    changed[0, 2, voice] += 1

    def logits(frames):
        before = np.concatenate([np.full((1, 1, 4), START), frames[:, :-1]], axis=1)
        return model._logits(tf.constant(before, tf.int32), tf.constant(frames, tf.int32)).numpy()[0]

    differs = np.abs(logits(notes) - logits(changed)).max(axis=-1) > 1e-7  # [5, 4]
    expected = np.zeros((5, 4), bool)
    expected[2, voice + 1 :] = expected[3:] = True
    assert np.array_equal(differs, expected)


def test_a_piece_s_score_does_not_depend_on_what_follows_its_end(signatures):
    notes = piece(5)
    alone = signatures["score"](notes=notes)
    padded = signatures["score"](notes=tf.concat([notes, blank(1, 3)], axis=1))
    assert alone["count"].numpy() == padded["count"].numpy() == [5]
    np.testing.assert_allclose(alone["nll"], padded["nll"], rtol=1e-6)
    np.testing.assert_allclose(alone["nll"], tf.reduce_sum(alone["voice_nll"], axis=1), rtol=1e-6)


def test_a_model_without_opinions_is_worth_the_logarithm_of_its_classes(signatures):
    flat = zoo.build("chorales", tiny.CONFIGS["chorales"])
    for name in chorales.NAMES:
        for weight in flat.networks[name].layers[-1].weights:
            weight.assign(tf.zeros_like(weight))
    scored = flat.signatures()["score"](notes=piece(6))
    np.testing.assert_allclose(scored["voice_nll"], [[6 * math.log(89)] * 4], rtol=1e-5)


def test_composing_and_scoring_are_the_same_model(signatures, model):
    """At temperature 0 every note is the likeliest of the logits that score the finished piece."""
    cold = tf.zeros([1])
    notes = signatures["generate"](notes=blank(1, 6), seed=tf.constant([3], tf.int64), temperature=cold)[
        "notes"
    ]
    before = tf.pad(notes[:, :-1], [[0, 0], [1, 0], [0, 0]], constant_values=START)
    best = tf.argmax(model._logits(before, notes), axis=-1, output_type=tf.int32)
    assert np.array_equal(best, chorales.codes(notes))


def test_seeds_and_temperature(signatures):
    seeds = tf.constant([1, 2, 1], tf.int64)
    hot = signatures["generate"](notes=blank(3, 8), seed=seeds)["notes"].numpy()
    cold = signatures["generate"](notes=blank(3, 8), seed=seeds, temperature=tf.zeros([1]))["notes"].numpy()
    assert np.array_equal(hot[0], hot[2]) and not np.array_equal(hot[0], hot[1])
    assert np.array_equal(cold[0], cold[1])
    assert ((hot == SILENCE) | ((hot >= 21) & (hot <= 108))).all()


def test_given_notes_are_kept_wherever_they_stand(signatures):
    notes = np.full((3, 8, 4), OPEN, np.int32)
    notes[0, :3] = CHORD  # to be continued
    notes[1, :, 0] = [67, 69, 71, 72, 74, 72, 71, SILENCE]  # a melody
    notes[2, 5, 2] = 57  # a single note in the middle
    answer = signatures["generate"](notes=tf.constant(notes), seed=tf.range(3, dtype=tf.int64))[
        "notes"
    ].numpy()
    assert np.array_equal(answer[notes != OPEN], notes[notes != OPEN])
    assert (answer != OPEN).all()


def test_harmonize_is_generate_with_a_given_soprano(signatures):
    soprano, seed = tf.constant([[67, 69, 71, 72]]), tf.constant([5], tf.int64)
    notes = tf.pad(soprano[..., None], [[0, 0], [0, 0], [0, 3]], constant_values=OPEN)
    harmonized = signatures["harmonize"](soprano=soprano, seed=seed)["notes"].numpy()
    assert np.array_equal(harmonized, signatures["generate"](notes=notes, seed=seed)["notes"].numpy())
    assert np.array_equal(harmonized[0, :, 0], soprano[0])


@pytest.mark.parametrize("given", ["nothing", "soprano"])
def test_a_longer_request_begins_with_the_answer_to_a_shorter_one(signatures, given):
    notes = blank(1, 6).numpy()
    if given == "soprano":
        notes[0, :, 0] = [67, 69, 71, 72, 71, 69]
    longer = np.concatenate([notes, blank(1, 5)], axis=1)
    seed = tf.constant([7], tf.int64)
    first = signatures["generate"](notes=tf.constant(notes), seed=seed)["notes"].numpy()
    second = signatures["generate"](notes=tf.constant(longer), seed=seed)["notes"].numpy()
    assert np.array_equal(first, second[:, :6])


def test_a_row_that_looks_ahead_changes_nothing_for_one_that_does_not(signatures):
    notes = blank(2, 6).numpy()
    seed = tf.constant([7, 8], tf.int64)
    free = signatures["generate"](notes=tf.constant(notes), seed=seed)["notes"].numpy()
    notes[1, :, 0] = 67
    mixed = signatures["generate"](notes=tf.constant(notes), seed=seed)["notes"].numpy()
    assert np.array_equal(free[0], mixed[0])


def test_given_notes_ahead_change_what_comes_before_them(signatures):
    """The first chord under a melody is chosen in the light of how the melody goes on."""
    seeds = tf.range(64, dtype=tf.int64)
    first = [
        signatures["harmonize"](soprano=tf.tile([[67, *rest]], [64, 1]), seed=seeds)["notes"].numpy()[:, 0]
        for rest in ([40, 40, 40], [90, 90, 90])
    ]
    assert np.array_equal(first[0][:, 0], first[1][:, 0])
    assert not np.array_equal(first[0], first[1])


def test_a_class_is_drawn_by_its_share():
    probability = tf.constant([[0.0, 0.25, 0.0, 0.75]] * 4)
    drawn = chorales._drawn(
        probability, tf.constant([0.0, 0.2, 0.3, np.nextafter(np.float32(1), np.float32(0))])
    )
    assert drawn.numpy().tolist() == [1, 1, 3, 3]


def test_resampling_keeps_each_line_as_often_as_it_weighs():
    share = np.array([[0.7, 0.1, 0.1, 0.1]], np.float32)
    offspring = np.zeros(4)
    places = (np.arange(200) + 0.5) / 200
    for place in places:
        weight, parent = chorales._resampled(tf.math.log(share), tf.constant([place], tf.float32))
        assert not weight.numpy().any()
        offspring += np.bincount(parent[0], minlength=4)
    np.testing.assert_allclose(offspring / len(places), 4 * share[0], atol=0.02)


def test_lines_of_like_weight_all_go_on():
    weight, parent = chorales._resampled(tf.math.log([[0.3, 0.2, 0.2, 0.3]]), tf.constant([0.9]))
    assert parent.numpy().tolist() == [[0, 1, 2, 3]]
    np.testing.assert_allclose(tf.exp(weight), [[0.3, 0.2, 0.2, 0.3]], rtol=1e-6)


def test_dropout_leaves_the_mean_and_repeats_at_the_same_step():
    config = chorales.Config(embedding=4, units=8, hidden=8, dropout=0.25)
    model = zoo.build("chorales", config)
    x = tf.ones([400, 3, 50])
    dropped = model._dropped(x, 0).numpy()
    assert np.array_equal(dropped, model._dropped(x, 0))
    assert np.array_equal(dropped[:, 0], dropped[:, 2])  # one mask for the window
    np.testing.assert_allclose(np.unique(dropped), [0.0, 4 / 3], rtol=1e-6)
    assert dropped.mean() == pytest.approx(1.0, abs=0.02)
    model._advance()
    assert not np.array_equal(dropped, model._dropped(x, 0))


@pytest.mark.parametrize(
    ("signature", "request_", "message"),
    [
        ("generate", {"notes": [[[20, 60, 60, 60]]]}, r"not -1 \(open\), 0 \(silence\) or a MIDI number"),
        ("generate", {"notes": [[[109, 60, 60, 60]]]}, "from 21 to 108"),
        ("generate", {"notes": [[[-2, 60, 60, 60]]]}, "from 21 to 108"),
        ("harmonize", {"soprano": [[60, 127]]}, "from 21 to 108"),
        ("generate", {"notes": [[CHORD]], "temperature": [-1.0]}, "a temperature is below 0"),
        ("score", {"notes": [[[67, OPEN, 60, 48]]]}, "only whole frames after its end"),
        ("score", {"notes": [[CHORD, [OPEN] * 4, CHORD]]}, "only whole frames after its end"),
    ],
)
def test_a_mistake_fails_with_words(signatures, signature, request_, message):
    tensors = {k: tf.constant(v) for k, v in request_.items()}
    if signature != "score":
        tensors["seed"] = tf.constant([0], tf.int64)
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        signatures[signature](**tensors)
