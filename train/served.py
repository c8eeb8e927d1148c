"""An export as its users will get it: a model server in its own process, asked over gRPC.

    with served.serve(pathlib.Path("candidates/cnn_fashion/3")) as export:
        report = evaluate.evaluate(export, export.family, data)
        export.latencies()

So what is judged is what ships, run by what will run it; a model in this process could differ from both.
"""

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

import zoo
from serving import client as client_lib
from serving import doctor, errors, golden
from zoo import base, pretrained
from zoo import workdir as workdir_lib
from zoo.errors import UserError

REQUESTS = 100  # of each signature, for its latency
_WARM_UP = 3
_CARD = pathlib.Path("assets.extra", "card.json")


class Export:
    """What evaluation asks of a model (`base.Judged`), of one that is served."""

    def __init__(self, found: golden.Export, card: dict[str, Any], client: client_lib.Client):
        family = zoo.family(card["family"])
        self.family: str = card["family"]
        self.config = pretrained.config_from_json(family.Config, card["model"])
        self.learns: str = family.Model.learns
        self._found, self._client = found, client

    def signatures(self) -> dict[str, base.Signature]:
        """Name → a function of named tensors that asks the server and returns a dict of tensors."""
        names = self._client.metadata(self._found.model).signatures
        return _Signatures({name: functools.partial(self._ask, name) for name in names})

    def _ask(self, signature: str, **inputs: Any) -> dict[str, tf.Tensor]:
        arrays = {name: np.asarray(value) for name, value in inputs.items()}
        answer = self._client.predict(self._found.model, arrays, signature=signature)
        return {k: tf.constant(v.tolist() if v.dtype == object else v) for k, v in answer.items()}

    def latencies(self) -> dict[str, float]:
        """Milliseconds within which 95 of 100 golden requests of a signature are answered, one after the
        other: `latency_p95_ms/<signature>`, and `latency_p95_ms` of the first, which is the default.

        Raises:
            UserError: the export has no golden requests.
        """
        try:
            requests = golden.read(self._found)
        except golden.GoldenError as error:
            raise UserError(str(error)) from error
        found: dict[str, float] = {}
        for request in requests:
            seconds = []
            for i in range(_WARM_UP + REQUESTS):
                start = time.perf_counter()
                self._client.predict(self._found.model, request.inputs, signature=request.signature)
                if i >= _WARM_UP:
                    seconds.append(time.perf_counter() - start)
            milliseconds = 1000 * float(np.percentile(seconds, 95))
            found.setdefault("latency_p95_ms", milliseconds)
            found[f"latency_p95_ms/{request.signature}"] = milliseconds
        return found


class _Signatures(dict[str, Callable[..., Any]]):
    """A signature that an older exporter did not write is missed with words."""

    def __missing__(self, name: str) -> Any:
        raise UserError(
            f"the export has no signature {name!r}, which its judgement needs (it has {', '.join(self)});"
            " python -m serving.export_main writes it anew"
        )


def card(export: pathlib.Path) -> dict[str, Any]:
    """The model card of an export. Raises `UserError` if there is none, or it is damaged."""
    if not (export / _CARD).is_file():
        raise UserError(f"{export} has no {_CARD}: what it is cannot be known; export it anew")
    found = workdir_lib.read_card(export / _CARD)
    zoo.family(found["family"])  # some exports are of no family, and cannot be judged
    return found


@contextlib.contextmanager
def serve(export: pathlib.Path) -> Iterator[Export]:
    """Starts a server on the export for the `with` block.

    Args:
        export: `<base>/<name>/<version>`.

    Raises:
        UserError: it is not an export of one of the families, or the server does not start or answer.
    """
    export = export.resolve()
    if not export.name.isdecimal():
        raise UserError(f"{export} is no version of a model: <base>/<name>/<version> is expected")
    described = card(export)
    found = golden.Export(export.parent.name, int(export.name), export)
    try:
        # A whole test split of text is one request.
        with (
            doctor.serving([found]) as server,
            client_lib.Client.connect(server.address, timeout=None) as client,
        ):
            yield Export(found, described, client)
    except errors.ServingError as error:
        raise UserError(f"{export} cannot be judged: {error}") from error
