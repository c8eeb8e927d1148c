"""Whether clients of one version of a model can go on with the next, by the signatures in their cards.

No TensorFlow.
"""

import ast
import json
import pathlib
import re
from typing import Any

_CARD = pathlib.Path("assets.extra", "card.json")


def breaks(live: pathlib.Path, candidate: pathlib.Path) -> list[str]:
    """What a client of the export `live` could miss in `candidate`, in words; nothing if `live` has no card.

    Each signature, input and output must still be there with its dtype; an input must take every shape that
    it took, an output may not give other sizes than it gave.
    """
    before, after = _signatures(live), _signatures(candidate)
    found = []
    for name, signature in before.items():
        if name not in after:
            found.append(f"signature {name} is missing")
            continue
        for kind in ("input", "output"):
            given = after[name][f"{kind}s"]
            for tensor, spec in signature[f"{kind}s"].items():
                if tensor not in given:
                    found.append(f"{name}: {kind} {tensor} ({spec}) is missing")
                elif not _fits(spec, given[tensor], kind):
                    found.append(f"{name}: {kind} {tensor} was {spec} and would be {given[tensor]}")
    return found


def _signatures(export: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads((export / _CARD).read_text())["signatures"]
    except (FileNotFoundError, ValueError, KeyError):
        return {}


def _fits(before: str, after: str, kind: str) -> bool:
    """Both as the card writes them: "float32 [None, 28, 28, 1]"."""
    (dtype, shape), (other_dtype, other_shape) = _parse(before), _parse(after)
    if dtype != other_dtype or len(shape) != len(other_shape):
        return False
    for size, other in zip(shape, other_shape, strict=True):
        free = other if kind == "input" else size
        if free is not None and size != other:
            return False
    return True


def _parse(spec: str) -> tuple[str, list[int | None]]:
    found = re.fullmatch(r"(\w+) (\[.*\])", spec)
    return (found[1], ast.literal_eval(found[2])) if found else (spec, [])
