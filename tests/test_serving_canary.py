"""Splits between versions, and the rules of trying again: pure functions of their inputs."""

from __future__ import annotations

from collections import Counter

import pytest

from serving import retries
from serving.canary import Split


def _counts(split: Split, keys: int = 20_000) -> Counter[int | str]:
    return Counter(split.by(key).choose() for key in range(keys))


def test_shares_are_met_by_chance_and_by_key():
    split = Split({"stable": 95, "canary": 5})
    by_key = _counts(split)
    by_chance = Counter(split.choose() for _ in range(20_000))
    for counts in (by_key, by_chance):
        # Binomial, standard deviation 31: 6 of them.
        assert abs(counts["canary"] - 1000) < 190
        assert counts["stable"] + counts["canary"] == 20_000


def test_a_key_meets_the_same_arm_for_ever_and_in_any_form():
    # Written down: a user must not change arms with a release of this package.
    split = Split({3: 0.5, 4: 0.5})
    assert [split.by(f"user{i}").choose() for i in range(8)] == [4, 4, 4, 3, 4, 3, 3, 3]
    assert split.by("7").choose() == split.by(7).choose() == split.by(b"7").choose()
    assert Split({4: 1, 3: 1}).by("user1").choose() == split.by("user1").choose()


def test_a_growing_share_takes_keys_and_moves_no_others():
    before = Split({"a": 60, "b": 30, "c": 10})
    after = Split({"a": 60, "b": 30, "c": 30})
    moved = [(before.by(k).choose(), after.by(k).choose()) for k in range(3000)]
    changed = [(old, new) for old, new in moved if old != new]
    assert changed and {new for _, new in changed} == {"c"}


def test_a_label_and_a_version_of_the_same_digits_are_different_arms():
    assert set(_counts(Split({3: 1, "3": 1}), 200)) == {3, "3"}


def test_an_arm_without_a_share_is_never_chosen():
    assert set(_counts(Split({"stable": 1, "canary": 0}), 500)) == {"stable"}


@pytest.mark.parametrize(
    ("shares", "reason"),
    [
        ({}, "a share above 0"),
        ({"a": 0}, "a share above 0"),
        ({"a": -1}, "the share of 'a' must be 0 or more, given -1"),
        ({"a": float("nan")}, "given nan"),
        ({1.5: 1}, "expected a version .int. or a label .str., given 1.5"),
        ({True: 1}, "given True"),
    ],
)
def test_shares_that_are_none_are_refused(shares, reason):
    with pytest.raises(ValueError, match=reason):
        Split(shares)


def test_pauses_double_up_to_two_seconds_and_differ():
    for retry, most in ((0, 0.1), (1, 0.2), (3, 0.8), (10, 2.0)):
        pauses = {retries.pause(retry) for _ in range(200)}
        assert most / 2 <= min(pauses) < max(pauses) <= most
        assert len(pauses) > 100


def test_a_budget_gives_a_share_of_the_calls_and_a_trickle():
    budget = retries.Budget(share=0.5, per_second=0.0, most=2.0)
    assert [budget.take() for _ in range(3)] == [True, True, False]
    for _ in range(2):
        budget.call()
    assert [budget.take() for _ in range(2)] == [True, False]
    for _ in range(100):
        budget.call()
    assert [budget.take() for _ in range(3)] == [True, True, False]
    assert retries.Budget(per_second=1e9, most=1.0).take()


def test_servers_take_turns_and_a_failed_one_is_left_out():
    rotation = retries.Rotation(3)
    first = [rotation.next() for _ in range(6)]
    assert sorted(first[:3]) == [0, 1, 2] and first[:3] == first[3:]
    assert rotation.failed(1)
    assert 1 not in {rotation.next() for _ in range(6)}
    assert rotation.failed(0)
    assert {rotation.next() for _ in range(6)} == {2}
    assert not rotation.failed(2)  # all are down: no other is worth trying at once
    assert {rotation.next() for _ in range(6)} == {0, 1, 2}
    rotation.answered(1)
    assert {rotation.next() for _ in range(6)} == {1}
