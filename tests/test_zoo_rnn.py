"""The language model's cells against Keras' and against autodiff, sampling by hand, and what it promises."""

import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import zoo
from train import optimizers
from zoo import rng, rnn

CELLS = list(rnn.Cell)


def random(*shape, seed=0):
    return tf.random.stateless_normal(shape, [seed, sum(shape)])


def some_state(cell, rows, units):
    return tuple(random(rows, units, seed=10 + i) for i in range(rnn.CELLS[cell].states))


def of_keras(cell, units):
    layers = {
        rnn.Cell.LSTM: keras.layers.LSTM,
        rnn.Cell.GRU: keras.layers.GRU,
        rnn.Cell.PLAIN: keras.layers.SimpleRNN,
    }
    return layers[cell](units, return_sequences=True, return_state=True)


@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_is_the_one_of_keras_with_the_same_weights(cell):
    layer = of_keras(cell, 6)
    x, state = random(3, 7, 5), some_state(cell, 3, 6)
    layer.build(x.shape)
    kernel, recurrent, bias = layer.get_weights()
    bias = np.random.default_rng(0).standard_normal(bias.shape).astype(np.float32)
    if cell == rnn.Cell.GRU:
        bias[1] = 0.0  # Keras has a second bias, behind h U; ours adds no second one
    layer.set_weights([kernel, recurrent, bias])
    outputs, *last = layer(x, initial_state=list(state))
    gates = tf.transpose(x @ kernel + (bias[0] if cell == rnn.Cell.GRU else bias), [1, 0, 2])
    ours, after = rnn.unroll(cell, gates, tf.constant(recurrent), state)
    np.testing.assert_allclose(tf.transpose(ours, [1, 0, 2]), outputs, atol=1e-5)
    for a, b in zip(after, last, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("steps", [1, 5])
def test_the_written_gradient_is_that_of_autodiff(cell, steps):
    form = rnn.CELLS[cell]
    x, kernel, state = random(steps, 3, form.gates * 4), random(4, form.gates * 4), some_state(cell, 3, 4)

    def plainly():
        now, outputs = state, []
        for t in range(steps):
            now, _ = form.step(x[t], now[0] @ kernel, now)
            outputs.append(now[0])
        return tf.stack(outputs), now

    def gradients(run):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel, *state])
            outputs, last = run()
            loss = tf.reduce_sum(outputs * random(steps, 3, 4, seed=1))
            loss += tf.add_n([tf.reduce_sum(s * random(3, 4, seed=2 + i)) for i, s in enumerate(last)])
        return tape.gradient(loss, [x, kernel, *state])

    for ours, wanted in zip(
        gradients(lambda: rnn.unroll(cell, x, kernel, state, learning=True)), gradients(plainly), strict=True
    ):
        np.testing.assert_allclose(ours, wanted, atol=2e-5)


def test_carrying_the_state_is_reading_the_past_again():
    network = zoo.build("rnn", tiny.CONFIGS["rnn"]).network
    ids = tf.constant(np.random.default_rng(0).integers(0, 13, (2, 9)).astype(np.int32))
    whole, after = network.read(ids, network.start(2))
    first, between = network.read(ids[:, :4], network.start(2))
    second, last = network.read(ids[:, 4:], between)
    np.testing.assert_allclose(tf.concat([first, second], axis=0), whole, atol=1e-6)
    for a, b in zip(tf.nest.flatten(after), tf.nest.flatten(last), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_cross_entropy_by_hand():
    # p = 1/4, 3/4 for logits 0 and log 3
    loss = rnn.cross_entropy(tf.constant([0, 1]), tf.constant([[0.0, math.log(3)]] * 2))
    np.testing.assert_allclose(loss, [math.log(4), math.log(4 / 3)], atol=1e-6)


P = tf.constant([[0.1, 0.4, 0.2, 0.3]])


@pytest.mark.parametrize(
    "top_k, top_p, wanted",
    [
        (0, 1.0, [0.1, 0.4, 0.2, 0.3]),
        (2, 1.0, [0, 4 / 7, 0, 3 / 7]),
        (0, 0.65, [0, 4 / 7, 0, 3 / 7]),  # .4 alone is too little, .4 + .3 is enough
        (0, 0.75, [0, 4 / 9, 2 / 9, 3 / 9]),
        (1, 0.9, [0, 1, 0, 0]),
        (9, 1.0, [0.1, 0.4, 0.2, 0.3]),
        (0, 1e-6, [0, 1, 0, 0]),
    ],
)
def test_truncation_by_hand(top_k, top_p, wanted):
    p = rnn.truncated(P, tf.constant([top_k]), tf.constant([top_p]))
    np.testing.assert_allclose(p[0], wanted, atol=1e-6)


@pytest.mark.parametrize(
    "draw, symbol", [(0.0, 0), (0.05, 0), (0.15, 1), (0.49, 1), (0.55, 2), (0.75, 3), (0.9999999, 3)]
)
def test_a_draw_picks_where_the_cumulative_probability_passes_it(draw, symbol):
    assert int(rnn.pick(P, tf.constant([draw]))[0]) == symbol


def test_nothing_with_probability_zero_is_picked():
    p = tf.constant([[0.0, 0.0, 1.0, 0.0]])
    for draw in (0.0, 0.5, 0.9999999):
        assert int(rnn.pick(p, tf.constant([draw]))[0]) == 2
    # Rounding has left the sum below the draw.
    rounded = tf.constant([[0.5, 0.4999995, 0.0, 0.0]])
    assert int(rnn.pick(rounded, tf.constant([0.9999999]))[0]) == 1


def test_a_wider_draw_begins_with_the_narrower_one():
    seeds = tf.constant([3, 2**40], tf.int64)
    wide = rng.row_uniform(seeds, 1001)
    for width in (1, 2, 5, 64, 1000):
        assert np.array_equal(rng.row_uniform(seeds, width), wide[:, :width])


@pytest.fixture(scope="module", params=CELLS)
def model(request):
    config = dataclasses.replace(tiny.CONFIGS["rnn"], cell=request.param, units=16)
    return zoo.build("rnn", config)


def generate(model, prompts, **options):
    answer = model.signatures()["generate"](
        prompt=tf.constant(prompts), **{name: tf.constant(v) for name, v in options.items()}
    )
    return [text.decode() for text in answer["text"].numpy()]


def by_reading_all_again(model, prompt, length):
    """The likeliest symbol each time, from the logits of the whole text so far."""
    network, alphabet = model.ema_network, model.config.alphabet
    text = prompt
    for _ in range(length):
        ids = tf.constant([[alphabet.index(symbol) for symbol in "\n" + text]])
        text += alphabet[int(tf.argmax(network.read(ids, network.start(1))[0][-1, 0]))]
    return text


def test_temperature_zero_and_top_k_one_write_the_likeliest_symbols(model):
    wanted = [by_reading_all_again(model, prompt, 12) for prompt in ("to be", "")]
    assert generate(model, ["to be", ""], temperature=[0.0], length=[12]) == wanted
    assert generate(model, ["to be", ""], top_k=[1], length=[12], seed=np.array([5, 6])) == wanted
    assert generate(model, ["to be", ""], top_p=[1e-6], length=[12], seed=np.array([5, 6])) == wanted


def test_rows_of_other_lengths_prompts_and_options_do_not_change_a_row(model):
    together = generate(
        model,
        ["to be", "", "o"],
        seed=np.array([1, 2, 3]),
        length=[50, 7, 0],
        temperature=[1.0, 0.5, 2.0],
        top_k=[0, 3, 0],
    )
    assert [len(text) for text in together] == [55, 7, 1]
    assert together[2] == "o"
    assert generate(model, ["to be"], seed=np.array([1]), length=[50]) == together[:1]
    assert (
        generate(model, [""], seed=np.array([2]), length=[7], temperature=[0.5], top_k=[3]) == together[1:2]
    )
    assert generate(model, ["to be"], seed=np.array([2]), length=[50]) != together[:1]


def test_symbols_come_as_often_as_their_probability_says(model):
    network, alphabet = model.ema_network, model.config.alphabet
    p = tf.nn.softmax(network.read(tf.constant([[0]]), network.start(1))[0][0, 0]).numpy()
    first = generate(model, [""] * 4000, seed=np.arange(4000), length=[1])
    found = np.array([first.count(symbol) for symbol in alphabet]) / 4000
    assert np.abs(found - p).max() < 5 * math.sqrt(0.25 / 4000)


def test_score_is_what_the_symbols_cost_one_by_one(model):
    network, alphabet = model.ema_network, model.config.alphabet
    texts = ["to be\nor not", "", "t"]
    answer = model.signatures()["score"](text=tf.constant(texts))
    assert answer["count"].numpy().tolist() == [12, 0, 1]
    for text, nll in zip(texts, answer["nll"].numpy(), strict=True):
        wanted = 0.0
        for i in range(len(text)):
            ids = tf.constant([[alphabet.index(symbol) for symbol in "\n" + text[:i]]])
            p = tf.nn.softmax(network.read(ids, network.start(1))[0][-1, 0]).numpy()
            wanted -= math.log(p[alphabet.index(text[i])])
        assert nll == pytest.approx(wanted, abs=1e-4)


def test_score_reads_a_long_text_in_pieces_as_in_one(model):
    network, alphabet = model.ema_network, model.config.alphabet
    text = "to be or not to be\n" * 70  # 1,330 symbols: three pieces
    ids = np.array([alphabet.index(symbol) for symbol in "\n" + text], np.int32)[None]
    logits, _ = network.read(tf.constant(ids[:, :-1]), network.start(1))
    wanted = float(tf.reduce_sum(rnn.cross_entropy(tf.constant(ids[:, 1:].T), logits)))
    nll = float(model.signatures()["score"](text=tf.constant([text]))["nll"][0])
    assert nll == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"prompt": ["Zebra"]}, "outside the alphabet of the model"),
        ({"prompt": [b"\xff\xfe"]}, "Invalid formatting"),
        ({"length": [-1]}, "length is outside the range 0 to 10000"),
        ({"length": [10_001]}, "length is outside the range 0 to 10000"),
        ({"temperature": [-0.5]}, "temperature must be 0 or more"),
        ({"temperature": [math.nan]}, "temperature must be 0 or more"),
        ({"top_k": [-1]}, "top_k must be 0"),
        ({"top_p": [0.0]}, "top_p must be above 0"),
        ({"top_p": [1.5]}, "top_p must be above 0"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_fails_and_says_why(options, message):
    model = zoo.build("rnn", tiny.CONFIGS["rnn"])
    asked = {"prompt": [""]} | options
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        generate(model, **{"prompts" if k == "prompt" else k: v for k, v in asked.items()})


def test_letters_of_any_script_pass_through():
    model = zoo.build("rnn", rnn.Config(alphabet="\n。一三二", units=8, embedding=4))
    (text,) = generate(model, ["一二"], length=[30])
    assert text.startswith("一二") and len(text) == 32 and set(text) <= set("\n。一三二")


@pytest.mark.parametrize(
    "changes",
    [{"tied": True}, {"layers": 1}, {"layers": 3, "dropout": 0.0}, {"input_dropout": 0.5, "ema_decay": 0.0}],
    ids=str,
)
def test_every_variant_learns_a_verse_by_heart(changes):
    config = dataclasses.replace(tiny.CONFIGS["rnn"], units=32, dropout=0.0, ema_decay=0.5)
    model = zoo.build("rnn", dataclasses.replace(config, **changes))
    model.compile(keras.optimizers.Adam(2e-2))
    step = tf.function(model.train_step)
    batches = iter(tiny.DATA["rnn"]().train_batches(tiny.settings(length=16), seed=0))
    first = float(step(next(batches))["loss"])
    for _ in range(100):
        step(next(batches))
    model.loss_mean.reset_state()
    last = float(model.test_step(next(batches))["loss"])
    assert first > 2.0 and last < 0.7


def test_dropout_masks_are_of_the_step_and_the_row():
    model = zoo.build("rnn", dataclasses.replace(tiny.CONFIGS["rnn"], units=500, dropout=0.2))
    embedding, first, second = (mask.numpy() for mask in model._masks(4))
    assert set(np.unique(embedding)) == {1.0}
    assert set(np.unique(first)) == {0.0, np.float32(1.25)}
    assert abs((first == 0).mean() - 0.2) < 0.05
    assert not np.array_equal(first, second)
    model._advance()
    assert not np.array_equal(model._masks(4)[1].numpy(), first)


def test_the_clipped_norm_is_that_of_the_whole_batch(mirrored):
    """Two replicas with half a batch each learn what one device learns of all of it."""
    config = dataclasses.replace(tiny.CONFIGS["rnn"], clip_norm=0.01)
    x, y = tiny.batch("rnn", 16)
    alone = zoo.build("rnn", config)
    alone.compile(keras.optimizers.SGD(1.0))
    alone.train_step((x, y))
    with mirrored.scope():
        shared = zoo.build("rnn", config)
        shared.compile(keras.optimizers.SGD(1.0))
    parts = mirrored.experimental_distribute_values_from_function(
        lambda c: (x[8 * c.replica_id_in_sync_group :][:8], y[8 * c.replica_id_in_sync_group :][:8])
    )
    tf.function(lambda: mirrored.run(shared.train_step, args=(parts,)))()
    before = zoo.build("rnn", config).network.get_weights()
    moved = [a.numpy() - b for a, b in zip(alone.network.weights, before, strict=True)]
    assert math.sqrt(sum((m**2).sum() for m in moved)) == pytest.approx(0.01, rel=1e-3)
    for a, b in zip(alone.network.weights, shared.network.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-7)


def test_served_is_the_average_of_the_weights():
    model = zoo.build("rnn", dataclasses.replace(tiny.CONFIGS["rnn"], dropout=0.0))
    model.compile(optimizers.AdamW(1e-2))
    start = model.network.recurrent0.numpy()
    model.train_step(tiny.batch("rnn"))
    now = model.network.recurrent0.numpy()
    # The first step's decay is (1 + 0) / (10 + 0).
    np.testing.assert_allclose(model.ema_network.recurrent0.numpy(), now + 0.1 * (start - now), atol=1e-6)
    assert not np.allclose(now, start)


@pytest.mark.parametrize(
    "changes",
    [{"alphabet": "abc"}, {"alphabet": "\nba"}, {"alphabet": "\naab"}, {"dropout": 1.0}, {"clip_norm": 0.0}],
    ids=str,
)
def test_a_config_that_cannot_be_names_its_field(changes):
    (field,) = changes
    with pytest.raises(zoo.UserError, match=field):
        zoo.build("rnn", dataclasses.replace(tiny.CONFIGS["rnn"], **changes))
