"""The gates that an export must pass: `accuracy >= 0.93`, `accuracy/* >= last - 0.02`, `size_mb <= 3`.

    gate  = metric ("<=" | ">=") limit
    limit = number | "last" | "last" ("+" | "-" | "*") number

`metric` is a name of `zoo.blessing.flat`; a `*` in it stands for any characters, and all that match must
pass. `last` is the same metric of the newest blessed version of the model; where there is none, there is
nothing to be worse than, and the gate passes. What is not a number never does.
"""

import dataclasses
import difflib
import math
import operator
import re
from collections.abc import Iterable

from zoo.blessing import Blessing, Verdict
from zoo.errors import UserError

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_GATE = re.compile(
    rf"(?P<metric>\S.*?)\s*(?P<sense><=|>=)\s*"
    rf"(?:(?P<number>{_NUMBER})|last(?:\s*(?P<change>[-+*])\s*(?P<amount>{_NUMBER}))?)"
)
_CHANGES = {"+": operator.add, "-": operator.sub, "*": operator.mul}


@dataclasses.dataclass(frozen=True)
class Gate:
    """One condition on a metric."""

    text: str  # as it was written
    metric: str
    sense: str  # "<=" or ">="
    limit: float | None  # None: `last`, changed
    change: str = "+"
    amount: float = 0.0

    def needs(self, last: float) -> float:
        """The limit where the last blessed version has the value `last`."""
        return _CHANGES[self.change](last, self.amount) if self.limit is None else self.limit


def parse(text: str) -> Gate:
    """Reads one gate. Raises `UserError` that quotes what is none."""
    found = _GATE.fullmatch(text.strip())
    if found is None:
        raise UserError(
            f"gate {text!r}: expected <metric> <=|>= <number>, last, last - <number>, last + <number> or"
            " last * <number>, for example 'accuracy >= last - 0.005'"
        )
    if found["number"] is not None:
        return Gate(text.strip(), found["metric"], found["sense"], float(found["number"]))
    amount = float(found["amount"] or 0)
    return Gate(text.strip(), found["metric"], found["sense"], None, found["change"] or "+", amount)


def combine(preset: Iterable[str], given: Iterable[str]) -> list[Gate]:
    """A preset's gates and then those that were given; one that was given takes the place of the preset's on
    the same metric, in the same sense and against the same kind of limit (a number, or `last`).

    Raises:
        UserError: one cannot be read.
    """
    added = [parse(text) for text in given]
    replaced = {_subject(gate) for gate in added}
    return [gate for gate in map(parse, preset) if _subject(gate) not in replaced] + added


def _subject(gate: Gate) -> tuple[str, str, bool]:
    return gate.metric, gate.sense, gate.limit is None


def check(gates: Iterable[Gate], metrics: dict[str, float], last: Blessing | None) -> list[Verdict]:
    """What comes of each gate; of one that speaks of several metrics, its worst.

    Raises:
        UserError: a gate's metric is not there; the message lists those that are.
    """
    verdicts = []
    for gate in gates:
        names = _matching(gate.metric, metrics)
        found = [_verdict(gate, name, metrics[name], last) for name in names]
        # The smallest room to the limit first; what is no number before all, what has no limit last.
        _, verdict = min(found, key=lambda x: x[0])
        failed = sum(not v.passed for _, v in found)
        if len(found) > 1:
            counted = f"{failed} of {len(found)} fail" if failed else f"all {len(found)} pass"
            verdict = dataclasses.replace(verdict, reason=f"{verdict.reason}; {counted}")
        verdicts.append(verdict)
    return verdicts


def _matching(metric: str, metrics: dict[str, float]) -> list[str]:
    pattern = ".*".join(map(re.escape, metric.split("*")))
    names = [name for name in metrics if re.fullmatch(pattern, name)]
    if not names:
        close = difflib.get_close_matches(metric, metrics, 1)
        hint = f" did you mean {close[0]!r}?" if close else ""
        raise UserError(
            f"gate on {metric!r}: no such metric;{hint} the metrics are {', '.join(sorted(metrics))}"
        )
    return names


def _verdict(gate: Gate, name: str, value: float, last: Blessing | None) -> tuple[float, Verdict]:
    """The room between the value and its limit, and what that means."""
    before = None if last is None else last.metrics.get(name)
    if gate.limit is None and before is None:
        why = "no version was blessed yet" if last is None else "the last blessed version was judged without"
        if math.isnan(value):
            return -math.inf, Verdict(gate.text, value, None, False, f"{name} is not a number")
        return math.inf, Verdict(gate.text, value, None, True, f"{name} = {_short(value)}: {why}")
    limit = gate.needs(math.nan if before is None else before)
    room = value - limit if gate.sense == ">=" else limit - value
    passed = room >= 0 or math.isclose(value, limit, rel_tol=1e-9)  # 0.935 - 0.005 is not quite 0.93
    if math.isnan(room):  # also of two infinities: nothing is known
        return -math.inf, Verdict(gate.text, value, limit, False, f"{name} = {value}: not a number")
    relation = gate.sense if passed else {"<=": ">", ">=": "<"}[gate.sense]
    of_last = f" (last: {_short(before)})" if gate.limit is None and before is not None else ""
    reason = f"{name} = {_short(value)} {relation} {_short(limit)}{of_last}"
    return room, Verdict(gate.text, value, limit, passed, reason)


def _short(value: float) -> str:
    return f"{value:.6g}"
