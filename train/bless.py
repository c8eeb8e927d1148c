"""Judging an export: its figures on held-out data, its latency and size, and whether it passes its gates."""

import dataclasses
import datetime
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from train import evaluate, gates, presets, served
from train.data.dataset import DataSet
from zoo import blessing, model_card
from zoo.blessing import Blessing
from zoo.errors import UserError


def gates_of(card: dict[str, Any], given: Sequence[str]) -> list[gates.Gate]:
    """The gates of the export's preset as they are today, with those that were given.

    Raises:
        UserError: one cannot be read, or there is none at all.
    """
    name = card["name"]
    preset = presets.gates(name) if name in presets.names() else ()
    found = gates.combine(preset, given)
    if not found:
        raise UserError(
            f"there are no gates: {name!r} is no preset; give at least one, --gate='latency_p95_ms <= 100'"
        )
    return found


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was found out about an export."""

    digest: str  # of what was measured
    report: dict[str, Any]  # of `train.evaluate`
    metrics: dict[str, float]  # all figures by the names that gates use


def measure(export: pathlib.Path, data: DataSet, paths: Mapping[str, str] | None = None) -> Measured:
    """Asks a server with the export, `<base>/<name>/<version>`, about the held-out split of `data`.

    `paths` are those of `evaluate.evaluate`.

    Raises:
        UserError: it cannot be served, or the data are not what it was made for.
    """
    # Of what lies there now: should it change meanwhile, the judgement will not fit.
    digest = blessing.digest(export)
    with served.serve(export) as model:
        latencies = model.latencies()
        report = evaluate.evaluate(model, model.family, data, paths)
    figures = blessing.flat(report) | latencies | {"size_mb": blessing.megabytes(export)}
    return Measured(digest, report, figures)


def bless(
    export: pathlib.Path, found: Measured, wanted: Sequence[gates.Gate], last: Blessing | None
) -> Blessing:
    """Holds what was found against the gates, and writes `blessing.json` and the figures on `card.md` into
    the export.

    Args:
        last: what `last` in the gates means.

    Raises:
        UserError: a gate is on a metric that there is not.
    """
    verdicts = tuple(gates.check(wanted, found.metrics, last))
    judged = Blessing(
        blessed=all(verdict.passed for verdict in verdicts),
        model=export.resolve().parent.name,
        digest=found.digest,
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        verdicts=verdicts,
        metrics=found.metrics,
        compared_with=last.digest if last else "",
    )
    blessing.write(export, judged)
    blessing.write_card(export, model_card.markdown(served.card(export), found.metrics, verdicts))
    return judged


def table(found: Blessing) -> str:
    """The judgement as lines for people: every gate, and why."""
    width = max(len(verdict.gate) for verdict in found.verdicts)
    lines = [
        f"{'pass' if verdict.passed else 'FAIL'}  {verdict.gate:<{width}}  {_number(verdict.value):>10}"
        f"  {_number(verdict.limit):>10}  {verdict.reason}"
        for verdict in found.verdicts
    ]
    return "\n".join([f"      {'gate':<{width}}  {'value':>10}  {'limit':>10}  why", *lines])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"
