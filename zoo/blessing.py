"""`assets.extra/blessing.json`: what was found when an export was judged, and whether it may reach users.

It lies in the export that it speaks of and names the digest of its other files, so it cannot bless another
one. (All but `card.md`, which repeats its figures for people.) No TensorFlow.
"""

import dataclasses
import hashlib
import json
import pathlib
from typing import Any

from zoo import publish
from zoo.errors import UserError
from zoo.files import atomic_write, write_json

FILE = pathlib.Path("assets.extra", "blessing.json")
CARD = pathlib.Path("assets.extra", "card.md")  # `zoo.model_card` in Markdown, written anew with the figures


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One gate and what came of it."""

    gate: str  # as it was asked for: "accuracy >= last - 0.005"
    value: float | None  # of the metric; None where it was not measured
    limit: float | None  # None where there is nothing to compare with
    passed: bool
    reason: str  # in words, for people


@dataclasses.dataclass(frozen=True)
class Blessing:
    """The judgement of one export."""

    blessed: bool
    model: str
    digest: str  # of the export, by `digest`
    when: str  # ISO 8601, UTC
    verdicts: tuple[Verdict, ...]
    metrics: dict[str, float]  # flat: "accuracy", "accuracy/Coat", "size_mb", "latency_p95_ms" ...
    compared_with: str = ""  # the digest of the blessed version that "last" stands for; "" if there was none


def flat(report: dict[str, Any]) -> dict[str, float]:
    """`metrics` and `slices` of a report, or of a card, by the names that gates use.

    >>> flat({"metrics": {"accuracy": 0.9}, "slices": {"accuracy": {"Coat": 0.8}}})
    {'accuracy': 0.9, 'accuracy/Coat': 0.8}
    """
    found = dict(report["metrics"])
    for name, slices in report.get("slices", {}).items():
        found |= {f"{name}/{slice_}": value for slice_, value in slices.items()}
    return found


def files(export: pathlib.Path) -> list[pathlib.Path]:
    """What an export consists of: its files but for those that judging writes, sorted."""
    judged = {export / FILE, export / CARD}
    return sorted(p for p in export.rglob("*") if p.is_file() and p not in judged)


def megabytes(export: pathlib.Path) -> float:
    """The size of an export's `files`; a megabyte is a million bytes."""
    return sum(path.stat().st_size for path in files(export)) / 1e6


def digest(export: pathlib.Path) -> str:
    """`sha256:<hex>` of the names and the contents of an export's `files`.

    Raises:
        UserError: there is no SavedModel.
    """
    if not (export / "saved_model.pb").is_file():
        raise UserError(
            f"{export} is no export: it has no saved_model.pb; python -m serving.export_main makes one"
        )
    whole = hashlib.sha256()
    for path in files(export):
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256")
        whole.update(path.relative_to(export).as_posix().encode() + b"\0" + content.digest())
    return f"sha256:{whole.hexdigest()}"


def write(export: pathlib.Path, blessing: Blessing) -> pathlib.Path:
    """Writes the judgement into the export and returns its path."""
    path = export / FILE
    write_json(path, dataclasses.asdict(blessing))
    return path


def write_card(export: pathlib.Path, markdown: str) -> None:
    """Writes the export's card for people anew, now that there are figures to show."""
    atomic_write(export / CARD, markdown.encode())


def read(export: pathlib.Path) -> Blessing | None:
    """The judgement of an export; None if it was never judged.

    Raises:
        UserError: the file is damaged.
    """
    path = export / FILE
    if not path.is_file():
        return None
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        verdicts = tuple(Verdict(**verdict) for verdict in values.pop("verdicts"))
        return Blessing(**values, verdicts=verdicts)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{path} is no blessing ({error}); python -m train.evaluate_main writes it anew"
        ) from error


def last_blessed(parent: pathlib.Path, besides: str = "") -> Blessing | None:
    """The judgement of a model's newest blessed version, those with the digest `besides` apart; None if there
    is none.

    Raises:
        UserError: a judgement is damaged.
    """
    for version in reversed(publish.versions(parent)):
        found = read(parent / str(version))
        if found is not None and found.blessed and found.digest != besides:
            return found
    return None


def check(export: pathlib.Path) -> Blessing:
    """The blessing of an export that may reach users.

    Raises:
        UserError: it was not judged, was found wanting (the message says why), or is not what was judged.
    """
    blessing = read(export)
    if blessing is None:
        raise UserError(f"{export} was not judged yet: python -m train.evaluate_main --export={export}")
    if blessing.digest != digest(export):
        raise UserError(f"{export} is not what was judged: its files have changed since {blessing.when}")
    if not blessing.blessed:
        failed = "; ".join(v.reason for v in blessing.verdicts if not v.passed)
        raise UserError(f"{export} is not blessed: {failed}")
    return blessing
