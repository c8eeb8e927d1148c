"""The model card (Mitchell et al. 2019, arXiv:1810.03993): `card.json`, and the same in Markdown for people.

A training run writes one, an export carries it on; what was measured when an export was judged stands in its
`blessing.json` and is shown with it.
"""

import hashlib
import importlib.metadata
import json
import pathlib
import subprocess
from collections.abc import Iterable, Mapping
from typing import Any

from zoo.blessing import Verdict

_ROOT = pathlib.Path(__file__).resolve().parent.parent


def config_hash(config: Mapping[str, Any]) -> str:
    """`sha256:<hex>` of a configuration's JSON with sorted keys and no spaces: equal ones, equal hashes."""
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def code_version() -> str:
    """The commit of this checkout, with `-dirty` where files differ from it; else the package's version."""
    if (_ROOT / ".git").exists():  # not that of a repository that this is merely installed in
        described = subprocess.run(
            ["git", "-C", str(_ROOT), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=False,
        )
        if described.returncode == 0:
            return described.stdout.strip()
    try:
        return f"atelier {importlib.metadata.version('atelier')}"
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def markdown(
    card: Mapping[str, Any], metrics: Mapping[str, float] | None = None, verdicts: Iterable[Verdict] = ()
) -> str:
    """A card in Markdown.

    Args:
        card: `card.json`; one that was written before a field existed says that it is not recorded.
        metrics: figures by the names of `zoo.blessing.flat`; None: not judged yet.
        verdicts: what came of the gates.
    """
    data = card.get("data", {})
    sizes = {k: v for k, v in data.items() if isinstance(v, int)}
    facts = {
        "family": card.get("family"),
        "data": data.get("name"),
        "licence of the data": data.get("licence"),
        "source of the data": data.get("source"),
        "size of the data": ", ".join(f"{v:,} {k.replace('_', ' ')}" for k, v in sizes.items()),
        "command": f"`{card['command']}`" if card.get("command") else None,
        "steps": card.get("steps"),
        "seed": card.get("seed"),
        "trained in": f"{card['wall_seconds']:,.0f} s" if "wall_seconds" in card else None,
        "hardware": card.get("hardware"),
        "versions": ", ".join(f"{k} {v}" for k, v in card.get("versions", {}).items()),
        "configuration": card.get("config_hash"),
        "code": card.get("code_version"),
        "exported by": card.get("exported_by"),
    }
    lines = [f"# {card['name']}", "", card.get("limits", ""), ""]
    lines += _table(("", ""), ((k, "not recorded" if v in (None, "") else v) for k, v in facts.items()))
    lines += ["", "## On held-out data", ""]
    if metrics is None:
        lines.append("Not judged yet.")
    else:
        lines += _table(("metric", "value"), ((k, f"{v:.6g}") for k, v in metrics.items() if "/" not in k))
        slices = [(k, f"{v:.6g}") for k, v in metrics.items() if "/" in k]
        if slices:
            lines += ["", *_table(("slice", "value"), slices)]
    verdicts = list(verdicts)
    if verdicts:
        lines += ["", "## Gates", ""]
        rows = (("passed" if v.passed else "**failed**", f"`{v.gate}`", v.reason) for v in verdicts)
        lines += _table(("", "gate", "why"), rows)
    if card.get("samples"):
        lines += ["", "## Samples", ""]
        lines += [f"{'!' if path.endswith('.png') else ''}[{path}]({path})" for path in card["samples"]]
    if card.get("signatures"):
        rows = (
            (f"`{name}`", ", ".join(s["inputs"]), ", ".join(s["outputs"]))
            for name, s in card["signatures"].items()
        )
        lines += ["", "## Signatures", "", *_table(("signature", "inputs", "outputs"), rows)]
    return "\n".join(lines) + "\n"


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> list[str]:
    cells = ((str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows)
    body = (f"| {' | '.join(row)} |" for row in cells)
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *body]
