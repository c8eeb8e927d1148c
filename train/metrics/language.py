"""How well a language model knows a text, beside what counting alone achieves."""

import re
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from train.data.text import TextData
from train.metrics import verbatim
from zoo import base

SAMPLES = 100  # texts of ...
SYMBOLS = 400  # ... so many symbols
QUATRAINS = 500
# Four lines of five or of seven, a comma or full stop in their places.
_QUATRAIN = re.compile(r"([^，。]{5}，[^，。]{5}。){2}|([^，。]{7}，[^，。]{7}。){2}")


def ngram_nats(train: NDArray[np.int32], test: NDArray[np.int32], symbols: int, order: int) -> float:
    """Nats per symbol of an interpolated n-gram model: counts of `train`, held against `test`.

    p_n(s | c) = (count(c s) + kinds(c) p_{n-1}(s | c')) / (count(c) + kinds(c)), where kinds(c) is how many
    different symbols follow c, c' is c without its first symbol, and p_0 = 1 / symbols  (Witten & Bell 1991,
    method C, as Chen & Goodman 1999 write it).

    Args:
        train, test: symbols, `[N]`, `[M]`.
        symbols: how many there are.
        order: n; n - 1 symbols are the context. The first of `test` have shorter ones.
    """
    p = np.full(len(test), 1.0 / symbols)
    # The number of the n-gram that starts at a place: equal ones have equal numbers in both texts.
    train_context, test_context = np.zeros(len(train) + 1, np.int64), np.zeros(len(test) + 1, np.int64)
    for n in range(1, order + 1):
        skip = n - 1  # the n-gram at place i is its context at i and the symbol at i + skip
        train_gram = train_context[: len(train) - skip] * symbols + train[skip:]
        test_gram = test_context[: len(test) - skip] * symbols + test[skip:]
        _, number = np.unique(np.concatenate([train_gram, test_gram]), return_inverse=True)
        train_number, test_number = number[: len(train_gram)], number[len(train_gram) :]
        grams = np.bincount(train_number, minlength=number.max() + 1)
        contexts = train_context[: len(train_gram)]
        size = 1 + max(int(train_context.max()), int(test_context.max()))
        total = np.bincount(contexts, minlength=size)
        first = np.unique(train_number, return_index=True)[1]  # one place of each different n-gram
        kinds = np.bincount(contexts[first], minlength=size)
        context = test_context[: len(test_gram)]
        seen = total[context] > 0
        shorter = p[skip:]
        mixed = (grams[test_number] + kinds[context] * shorter) / np.maximum(
            total[context] + kinds[context], 1
        )
        p[skip:] = np.where(seen, mixed, shorter)
        train_context, test_context = train_number, test_number
    return float(-np.log(p).mean())


def best_ngram(train: NDArray[np.int32], test: NDArray[np.int32], symbols: int) -> tuple[int, float]:
    """The order after which longer contexts help `ngram_nats` no more, and its nats per symbol."""
    order, nats = 1, ngram_nats(train, test, symbols, 1)
    while (longer := ngram_nats(train, test, symbols, order + 1)) < nats:
        order, nats = order + 1, longer
    return order, nats


def is_quatrain(poem: str) -> bool:
    """Four lines of five or of seven symbols: `一二三四五，一二三四五。一二三四五，一二三四五。`"""
    return _QUATRAIN.fullmatch(poem) is not None


def report(model: base.Judged, data: TextData) -> dict[str, Any]:
    """Nats per symbol on the held-out text, read in one go, and what the model writes."""
    signatures = model.signatures()
    scored = signatures["score"](text=tf.constant([data.test]))
    symbols = len(data.alphabet)
    train, test = data.ids(data.train), data.ids(data.test)
    order, ngram = best_ngram(train, test, symbols)
    generated = _written(signatures, SAMPLES, SYMBOLS)
    metrics = {
        "nats_per_symbol": float(scored["nll"][0]) / int(scored["count"][0]),
        "ngram_nats_per_symbol": ngram,
    }
    copied = verbatim.originality(data.ids("".join(generated)), test, train)
    metrics |= {key: float(copied[key]) for key in ("longest_copied", "longest_copied_of_held_out")}
    if is_quatrain(data.test.split("\n", 1)[0]):
        poems = [text.split("\n", 1)[0] for text in _written(signatures, QUATRAINS, 40)]
        metrics["quatrain_form"] = float(np.mean([is_quatrain(poem) for poem in poems]))
        real = data.test.splitlines()
        metrics["quatrain_form_of_held_out"] = float(np.mean([is_quatrain(poem) for poem in real]))
    return {
        "metrics": metrics,
        "ngram_order": order,
        "generated_symbols": copied["symbols"],
        "n_test": int(scored["count"][0]),
        "unit": "symbols",
    }


def _written(signatures: dict[str, base.Signature], texts: int, symbols: int) -> list[str]:
    """What the model writes with nothing before it, at temperature 1: seeds from 0 on."""
    answer = signatures["generate"](
        prompt=tf.fill([texts], ""),
        seed=tf.range(texts, dtype=tf.int64),
        length=tf.fill([texts], symbols),
    )
    return [text.decode() for text in answer["text"].numpy()]
