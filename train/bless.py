"""Judging an export: its figures on held-out data, its latency and size, and whether it passes its gates."""

import datetime
import pathlib
from collections.abc import Sequence
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


def last_blessed(base_dir: pathlib.Path | None, name: str) -> Blessing | None:
    """The judgement of the newest blessed version of a model; None if there is none.

    Raises:
        UserError: `base_dir` is no folder, or a judgement is damaged.
    """
    if base_dir is None:
        return None
    if not base_dir.is_dir():
        raise UserError(f"--base_dir={base_dir} is no folder")
    versions = [p for p in (base_dir / name).glob("*") if p.name.isdecimal()]
    for version in sorted(versions, key=lambda p: int(p.name), reverse=True):
        found = blessing.read(version)
        if found is not None and found.blessed:
            return found
    return None


def judge(
    export: pathlib.Path, data: DataSet, wanted: Sequence[gates.Gate], last: Blessing | None
) -> tuple[Blessing, dict[str, Any]]:
    """Judges an export and writes `blessing.json`, and `card.md` with its figures, into it.

    Args:
        export: `<base>/<name>/<version>`.
        data: whose held-out split it is judged on.
        wanted: the gates.
        last: what `last` in them means.

    Returns:
        The judgement, and the whole report of `train.evaluate`.

    Raises:
        UserError: it cannot be served, the data are not what it was made for, or a gate is on a metric that
            there is not.
    """
    # What is judged is what lies there now: should it change meanwhile, the digest will not fit.
    digest = blessing.digest(export)
    card = served.card(export)
    with served.serve(export) as served_export:
        latencies = served_export.latencies()
        report = evaluate.evaluate(served_export, served_export.family, data)
    size = sum(path.stat().st_size for path in blessing.files(export)) / 1e6
    metrics = blessing.flat(report) | latencies | {"size_mb": size}
    verdicts = tuple(gates.check(wanted, metrics, last))
    found = Blessing(
        blessed=all(verdict.passed for verdict in verdicts),
        model=export.resolve().parent.name,
        digest=digest,
        when=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        verdicts=verdicts,
        metrics=metrics,
        compared_with=last.digest if last else "",
    )
    blessing.write(export, found)
    blessing.write_card(export, model_card.markdown(card, metrics, verdicts))
    return found, report


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
