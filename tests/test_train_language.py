"""The n-gram baseline by hand, the form of a quatrain, and a whole report."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiny

import zoo
from train import evaluate
from train.data.text import TextData
from train.metrics import language


def ids(text):
    return np.array([ord(c) - ord("a") for c in text], np.int32)


def test_a_unigram_model_by_hand():
    # counts of "aab": a 2, b 1; 3 symbols; 2 kinds: p(a) = (2 + 2/3) / (3 + 2), p(c) = (0 + 2/3) / 5
    nats = language.ngram_nats(ids("aab"), ids("ac"), symbols=3, order=1)
    assert nats == pytest.approx(-(math.log(8 / 15) + math.log(2 / 15)) / 2)


def test_a_bigram_model_by_hand():
    # Unigrams of "abab": p(a) = p(b) = (2 + 2/2) / (4 + 2) = 1/2.
    # After a: b twice, one kind: p(b|a) = (2 + 1/2) / 3 = 5/6; p(a|a) = (0 + 1/2) / 3 = 1/6.
    # After b: a once: p(b|b) = (0 + 1/2) / 2 = 1/4.
    # "aabb": a without a context, then a|a, b|a, b|b.
    nats = language.ngram_nats(ids("abab"), ids("aabb"), symbols=2, order=2)
    assert nats == pytest.approx(-math.log(1 / 2 * 1 / 6 * 5 / 6 * 1 / 4) / 4)


def test_an_unseen_context_leaves_it_to_the_shorter_one():
    # "c" never stands in "abab": what follows it has its unigram probability, (2 + 2/3) / 6 for a.
    nats = language.ngram_nats(ids("abab"), ids("ca"), symbols=3, order=3)
    assert nats == pytest.approx(-(math.log(2 / 3 / 6) + math.log(8 / 3 / 6)) / 2)


def test_the_probabilities_of_an_ngram_model_sum_to_one():
    random = np.random.default_rng(0)
    train, context = random.integers(0, 4, 300), random.integers(0, 4, 3)
    p = 0.0
    for symbol in range(4):
        longer = language.ngram_nats(train, np.append(context, symbol), 4, 4) * 4
        p += math.exp(language.ngram_nats(train, context, 4, 4) * 3 - longer)
    assert p == pytest.approx(1.0)


def test_the_best_ngram_is_the_one_before_longer_ones_stop_helping():
    random = np.random.default_rng(1)
    # Each symbol follows from the two before it, most of the time: a trigram knows all there is to know.
    text = [0, 1]
    for chance in random.random(5000):
        text.append((text[-1] + 2 * text[-2] + 1) % 4 if chance < 0.8 else int(random.integers(4)))
    train, test = np.split(np.array(text, np.int32), [4000])
    order, nats = language.best_ngram(train, test, 4)
    assert order == 3
    assert nats == language.ngram_nats(train, test, 4, 3)


@pytest.mark.parametrize(
    "poem, form",
    [
        ("白日依山盡，黃河入海流。欲窮千里目，更上一層樓。", True),
        ("朝辭白帝彩雲間，千里江陵一日還。兩岸猿聲啼不住，輕舟已過萬重山。", True),
        ("白日依山盡，黃河入海流。欲窮千里目，更上一層。", False),
        ("白日依山盡，黃河入海流。欲窮千里目，更上一層樓，", False),
        ("朝辭白帝彩雲間，千里江陵一日還。欲窮千里目，更上一層樓。", False),
        ("", False),
    ],
)
def test_the_form_of_a_quatrain(poem, form):
    assert language.is_quatrain(poem) == form


def test_a_model_that_learnt_a_verse_beats_counting_and_copies_it(monkeypatch):
    monkeypatch.setattr(language, "SAMPLES", 10)
    monkeypatch.setattr(language, "SYMBOLS", 40)
    data = tiny.DATA["rnn"]()
    model = zoo.build("rnn", tiny.CONFIGS["rnn"])
    model.compile(keras.optimizers.Adam(2e-2))
    before = evaluate.evaluate(model, "rnn", data)["metrics"]["nats_per_symbol"]
    assert before == pytest.approx(math.log(13), abs=0.5)
    step = tf.function(model.train_step)
    batches = iter(data.train_batches(tiny.settings(length=16), seed=0))
    for _ in range(150):
        step(next(batches))
    report = evaluate.evaluate(model, "rnn", data)
    assert report["n_test"] == len(data.test) == 400
    assert report["metrics"]["nats_per_symbol"] < before / 2
    assert report["metrics"]["longest_copied_of_held_out"] == 400  # the verse is the same in both splits
    assert report["metrics"]["longest_copied"] >= 4
    assert "nats_per_symbol" in evaluate.table(report)
    assert "n = 400 test symbols" in evaluate.table(report)


def test_another_alphabet_is_refused():
    model = zoo.build("rnn", tiny.CONFIGS["rnn"])
    other = TextData("other", "xyz" * 100, "xyz" * 100, "", "")
    with pytest.raises(zoo.UserError, match="alphabet"):
        evaluate.evaluate(model, "rnn", other)
