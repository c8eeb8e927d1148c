"""The longest verbatim run, by hand and against the plain definition."""

import numpy as np
import pytest

from train.metrics.verbatim import longest_copied, originality


def ids(text):
    return np.array([ord(c) for c in text])


@pytest.mark.parametrize(
    "sample, corpus, length",
    [
        ("abcd", "xxabcyy", 3),
        ("abcd", "abcd", 4),
        ("abcd", "efgh", 0),
        ("", "abc", 0),
        ("abc", "", 0),
        ("aaaa", "aa", 2),
        ("b", "aba", 1),
        ("bananas", "xananay", 5),  # "anana"
        ("abab", "ab|ab|ba", 2),  # not across what is in between
    ],
)
def test_by_hand(sample, corpus, length):
    assert longest_copied(ids(sample), ids(corpus)) == length


def test_it_is_the_plain_definition_on_random_sequences():
    random = np.random.default_rng(0)
    for _ in range(200):
        letters = random.integers(1, 4)
        sample, corpus = ("".join(random.choice(list("abc")[:letters], n)) for n in random.integers(0, 30, 2))
        runs = (sample[i:j] for i in range(len(sample)) for j in range(i, len(sample) + 1))
        want = max((len(run) for run in runs if run in corpus), default=0)
        assert longest_copied(ids(sample), ids(corpus)) == want


def test_a_copied_passage_in_a_quarter_million_symbols_is_found_to_the_symbol():
    random = np.random.default_rng(0)
    corpus = random.integers(0, 60, 250_000)
    sample = random.integers(60, 120, 10_000)
    sample[5000:5777] = corpus[123_456:124_233]
    assert longest_copied(sample, corpus) == 777


def test_originality_compares_equal_amounts():
    train = ids("the cat sat on the mat")
    report = originality(ids("the cat ran"), ids("a dog sat on the cat sat on"), train)
    # "the cat " (8) of the generated; the first 11 held-out symbols are "a dog sat o": " sat o".
    assert report == {"longest_copied": 8, "longest_copied_of_held_out": 6, "symbols": 11}
