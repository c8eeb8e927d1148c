"""Gates by hand: what is read, what passes, and what is said."""

import math

import pytest

from train import gates, presets
from zoo.blessing import Blessing, Verdict, flat
from zoo.errors import UserError

METRICS = {
    "accuracy": 0.93,
    "accuracy/Coat": 0.9,
    "accuracy/T-shirt/top": 0.8,
    "fd": 2.1,
    "broken": math.nan,
}


def blessing(**metrics: float) -> Blessing:
    return Blessing(True, "m", "sha256:0", "2026-01-01", (), metrics)


def check(text: str, last: Blessing | None = None) -> Verdict:
    (verdict,) = gates.check([gates.parse(text)], METRICS, last)
    return verdict


@pytest.mark.parametrize(
    ("text", "passed", "limit"),
    [
        ("accuracy >= 0.93", True, 0.93),
        ("accuracy>=.931", False, 0.931),
        ("fd <= 2.1", True, 2.1),
        ("fd <= 2", False, 2.0),
        ("fd >= -1e3", True, -1000.0),
        ("accuracy >= last", False, 0.935),
        ("accuracy >= last - 0.005", True, 0.93),  # 0.935 - 0.005 is 0.930...04 in binary
        ("accuracy >= last - 0.004", False, 0.931),
        ("fd <= last + 0.1", True, 2.1),
        ("fd <= last * 1.05", True, 2.1),
        ("fd <= last*1.04", False, 2.08),
        ("accuracy/Coat >= 0.9", True, 0.9),
        ("accuracy/T-shirt/top >= last - 0.05", True, 0.8),
    ],
)
def test_a_value_is_held_against_its_limit(text, passed, limit):
    last = blessing(accuracy=0.935, fd=2.0, **{"accuracy/T-shirt/top": 0.85})
    verdict = check(text, last)
    assert (verdict.passed, verdict.gate) == (passed, text)
    assert verdict.limit == pytest.approx(limit)
    assert verdict.value == METRICS[gates.parse(text).metric]


def test_a_reason_names_metric_value_limit_and_last():
    assert check("accuracy >= 0.95").reason == "accuracy = 0.93 < 0.95"
    told = check("fd <= last * 1.01", blessing(fd=2.0)).reason
    assert told == "fd = 2.1 > 2.02 (last: 2)"


def test_a_star_stands_for_every_slice_and_the_worst_one_speaks():
    verdict = check("accuracy/* >= 0.85")
    assert (verdict.passed, verdict.value) == (False, 0.8)
    assert verdict.reason == "accuracy/T-shirt/top = 0.8 < 0.85; 1 of 2 fail"
    assert check("accuracy/* >= 0.8").reason.endswith("all 2 pass")
    # Each slice against its own last: the Coat's fall is the larger one.
    last = blessing(**{"accuracy/Coat": 0.99, "accuracy/T-shirt/top": 0.81})
    verdict = check("accuracy/* >= last - 0.05", last)
    assert (verdict.passed, verdict.value, verdict.limit) == (False, 0.9, pytest.approx(0.94))


def test_with_nothing_to_be_worse_than_a_comparison_passes_and_says_so():
    first = check("accuracy >= last - 0.005")
    assert (first.passed, first.limit) == (True, None)
    assert first.reason == "accuracy = 0.93: no version was blessed yet"
    unknown = check("accuracy >= last", blessing(fd=1.0))
    assert unknown.passed and "the last blessed version was judged without" in unknown.reason


@pytest.mark.parametrize("text", ["broken >= 0", "broken <= 9", "broken >= last", "b* <= last"])
@pytest.mark.parametrize("last", [None, blessing(broken=1.0)], ids=["first", "later"])
def test_what_is_not_a_number_never_passes(text, last):
    verdict = check(text, last)
    assert not verdict.passed and "not a number" in verdict.reason


def test_a_limit_that_is_not_a_number_never_passes():
    assert not check("fd <= last", blessing(fd=math.nan)).passed


def test_an_unknown_metric_is_told_with_those_that_there_are():
    with pytest.raises(UserError) as told:
        check("acuracy >= 0.5")
    assert "no such metric; did you mean 'accuracy'? the metrics are accuracy, accuracy/Coat," in str(
        told.value
    )
    with pytest.raises(UserError, match=r"'nll/\*': no such metric"):
        check("nll/* <= 1")


@pytest.mark.parametrize(
    "text",
    ["", "accuracy", "accuracy > 0.9", "accuracy >= best", "accuracy >= last / 2", ">= 0.9", "fd <= nan"],
)
def test_what_is_no_gate_is_quoted(text):
    with pytest.raises(UserError) as told:
        gates.parse(text)
    assert repr(text) in str(told.value) and "accuracy >= last - 0.005" in str(told.value)


def test_a_given_gate_joins_the_preset_s_or_takes_the_place_of_its_like():
    preset = ("accuracy >= 0.93", "accuracy >= last - 0.01", "size_mb <= 3")
    found = gates.combine(preset, ["accuracy >= 0.5", "fd <= 3"])
    expected = ["accuracy >= last - 0.01", "size_mb <= 3", "accuracy >= 0.5", "fd <= 3"]
    assert [gate.text for gate in found] == expected


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_gates_quality_latency_and_size(name):
    metrics = {gate.metric for gate in gates.combine(presets.gates(name), [])}
    assert {"latency_p95_ms", "size_mb"} < metrics
    if name.startswith(("gan", "vae")):
        assert {"near_copies", "nearest_train_ratio"} <= metrics


def test_slices_are_flattened_by_the_names_that_gates_use():
    report = {"metrics": {"accuracy": 0.9}, "slices": {"accuracy": {"T-shirt/top": 0.8}}}
    assert flat(report) == {"accuracy": 0.9, "accuracy/T-shirt/top": 0.8}
    assert flat({"metrics": {"nll": 1.0}}) == {"nll": 1.0}  # an old card
