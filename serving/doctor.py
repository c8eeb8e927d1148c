"""Replays golden requests against a server and says in words what differs.

    with Client.connect("host:8500") as client:
        for check in examine(GrpcServer(client), golden.find(Path("models"))):
            print(check.signature, check.findings or "ok")
"""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from serving import errors, golden
from serving.client import Client
from serving.launch import LaunchedServer, launch

Arrays = Mapping[str, np.ndarray]

_REPLAYS = 3  # the first one pays for what a server does only once
_MAX_QUOTED = 80  # characters of a text that differs


class Server(Protocol):
    """What the doctor asks; every method raises `errors.ServingError`."""

    def versions(self, model: str) -> dict[int, str]:
        """Version -> "AVAILABLE", or its other state with the reason."""

    def signatures(self, model: str, version: int) -> set[str]:
        """The names of the model's signatures."""

    def predict(self, model: str, version: int, request: golden.Request) -> Arrays:
        """Its answer to the request's inputs."""


@dataclass(frozen=True)
class GrpcServer:
    """TensorFlow Serving's gRPC API: of itself, of KServe's grpc-v1, of the embedded server."""

    client: Client

    def versions(self, model: str) -> dict[int, str]:
        states = {}
        for version in self.client.status(model):
            reason = f" ({version.error_code}: {version.error_message})"
            states[version.version] = version.state + (reason if version.error_code != "OK" else "")
        return states

    def signatures(self, model: str, version: int) -> set[str]:
        return set(self.client.metadata(model, version=version).signatures)

    def predict(self, model: str, version: int, request: golden.Request) -> Arrays:
        return self.client.predict(model, request.inputs, signature=request.signature, version=version)


@dataclass
class Check:
    """One signature's replay; or, without a signature, what kept a model from being replayed."""

    model: str
    version: int
    signature: str | None = None
    findings: list[str] = field(default_factory=list)  # what differs, in words; empty: nothing
    rows: int = 0
    first_ms: float | None = None  # of the first replay
    best_ms: float | None = None  # of the others
    max_difference: float | None = None  # absolute, over all outputs of numbers


def examine(
    server: Server, exports: Iterable[golden.Export], atol: float = 1e-5, rtol: float = 1e-4
) -> Iterator[Check]:
    """Replays every golden request of every export, one after the other.

    Args:
      atol, rtol: numbers agree if |given - expected| <= atol + rtol * |expected|.
    Raises:
      golden.GoldenError: an export without readable golden requests.
      errors.ServerUnavailable: there is no server; one that goes away during a replay is a finding.
    """
    for export in exports:
        requests = golden.read(export)
        missing = _missing(server, export)
        if missing:
            yield Check(export.model, export.version, findings=[missing])
            continue
        known = server.signatures(export.model, export.version)
        for request in requests:
            check = Check(export.model, export.version, request.signature)
            check.rows = max((len(a) for a in request.inputs.values() if a.ndim), default=1)
            if request.signature not in known:
                listed = ", ".join(sorted(known)) or "none"
                check.findings.append(f"the server's model has no such signature; it has {listed}")
            else:
                _replay(server, export, request, check, atol, rtol)
            yield check


@contextlib.contextmanager
def serving(exports: Iterable[golden.Export], engine: str = "embedded") -> Iterator[LaunchedServer]:
    """A server process of exactly these versions, for the `with` block.

    One that cannot be loaded is a finding, and the others are still replayed; TensorFlow Serving does not
    start then.

    Args:
      engine: "embedded" or "tfserving".
    Raises:
      errors.ServerNotStarted: with the lines of its log.
    """
    with tempfile.TemporaryDirectory(prefix="atelier_doctor_") as folder:
        config = Path(folder) / "models.config"
        config.write_text(_model_config(exports), encoding="utf-8")
        flags = [f"--engine={engine}", "--max_num_load_retries=0", "--tolerate_failed_models"]
        with launch(config, flags=flags) as server:
            yield server


def compare(given: Arrays, expected: Arrays, atol: float, rtol: float) -> list[str]:
    """What differs between two answers, a sentence for each output; empty if nothing does."""
    found = []
    for name in sorted(given.keys() | expected.keys()):
        if name not in given:
            found.append(f"output {name} is missing")
        elif name not in expected:
            found.append(f"output {name} ({_type(given[name])}) is new")
        elif difference := _difference(given[name], expected[name], atol, rtol):
            found.append(f"output {name}: {difference}")
    return found


def _model_config(exports: Iterable[golden.Export]) -> str:
    """A ModelServerConfig of exactly these versions; strings are quoted as JSON's are."""
    entries = "".join(
        f"  config {{ name: {json.dumps(export.model, ensure_ascii=False)} "
        f"base_path: {json.dumps(str(export.path.parent), ensure_ascii=False)} "
        'model_platform: "tensorflow" '
        f"model_version_policy {{ specific {{ versions: {export.version} }} }} }}\n"
        for export in exports
    )
    return f"model_config_list {{\n{entries}}}\n"


def _missing(server: Server, export: golden.Export) -> str | None:
    """Why the export's version cannot be asked; None if it can."""
    try:
        versions = server.versions(export.model)
    except errors.ModelNotFound:
        return f"the server has no model {export.model!r}"
    except errors.NotSupported:
        return None  # a server of other makers may lack the method and still answer
    state = versions.get(export.version)
    if state is None:
        listed = ", ".join(f"{version} ({state})" for version, state in sorted(versions.items()))
        return f"the server has no version {export.version} of it; it has {listed or 'none'}"
    return None if state == "AVAILABLE" else f"version {export.version} is not AVAILABLE but {state}"


def _replay(
    server: Server,
    export: golden.Export,
    request: golden.Request,
    check: Check,
    atol: float,
    rtol: float,
) -> None:
    milliseconds = []
    given: Arrays = {}
    for _ in range(_REPLAYS):
        began = time.perf_counter()
        try:
            given = server.predict(export.model, export.version, request)
        except errors.ServingError as error:
            check.findings.append(f"it refuses the request: {' '.join(str(error).split())}")
            return
        milliseconds.append(1e3 * (time.perf_counter() - began))
    check.first_ms, check.best_ms = milliseconds[0], min(milliseconds[1:])
    check.findings += compare(given, request.outputs, atol, rtol)
    differences = [
        float(np.max(_distance(given[k], v), initial=0.0))
        for k, v in request.outputs.items()
        if k in given and v.dtype != object and given[k].shape == v.shape and given[k].dtype != object
    ]
    check.max_difference = max(differences, default=None)


def _difference(given: np.ndarray, expected: np.ndarray, atol: float, rtol: float) -> str | None:
    if given.dtype != expected.dtype:
        return f"expected {_type(expected)}, given {_type(given)}"
    if given.shape != expected.shape:
        return f"expected shape {list(expected.shape)}, given {list(given.shape)}"
    if expected.dtype == object:
        wrong = given != expected
    elif expected.dtype.kind in "biu":
        wrong = np.asarray(given != expected)
    else:
        # NaN agrees with NaN alone, an infinity with itself.
        wrong = ~np.isclose(_wide(given), _wide(expected), rtol=rtol, atol=atol, equal_nan=True)
    if not np.any(wrong):
        return None
    count = int(np.count_nonzero(wrong))
    how_many = f"{count:,} of {wrong.size:,} value{'s' if wrong.size > 1 else ''} differ" + "s" * (count == 1)
    if expected.dtype == object:
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        texts = f"expected {_quoted(expected[where])}, given {_quoted(given[where])}"
        return f"{how_many}, the first at {_place(where)}: {texts}"
    with np.errstate(invalid="ignore", over="ignore"):
        absolute = np.where(wrong, _distance(given, expected), -1.0)
        scale = np.abs(_wide(expected))
        relative = np.divide(absolute, scale, out=np.full(absolute.shape, np.inf), where=scale > 0)
    where = tuple(int(i) for i in np.unravel_index(int(np.argmax(absolute)), absolute.shape))
    return (
        f"{how_many}, most at {_place(where)}: expected {expected[where]:.7g}, given {given[where]:.7g} "
        f"(by {absolute[where]:.3g}, relatively {relative[where]:.3g})"
    )


def _distance(given: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """How far apart the numbers are: infinitely where one side alone is NaN or infinite."""
    wide, other = _wide(given), _wide(expected)
    same = (wide == other) | (np.isnan(wide) & np.isnan(other))
    with np.errstate(invalid="ignore", over="ignore"):
        absolute = np.abs(wide - other)
    return np.where(same, 0.0, np.where(np.isfinite(absolute), absolute, np.inf))


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _place(where: tuple[int, ...]) -> str:
    if not where:
        return "the only place"
    return f"row {where[0]}" + (f", place {list(where[1:])}" if len(where) > 1 else "")


def _type(array: np.ndarray) -> str:
    return "string" if array.dtype == object else str(array.dtype)


def _quoted(value: bytes) -> str:
    text = repr(value)[1:]
    return text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}... ({len(value)} bytes)"
