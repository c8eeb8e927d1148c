"""The client's verbs, without input or output: what to send, and what the answers mean.

Each verb is a generator. It yields the calls it wants made, is sent their answers (or thrown their
exceptions), and returns its result; `client.Client` and `aio.AsyncClient` make the calls, each in its way.
So retries, caching and checks are written once.
"""

from __future__ import annotations

import inspect
import math
import os
import time
import weakref
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from serving import canary, errors, messages, methods, retries, schema
from serving.schema import ServedModel, VersionStatus

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

PREDICT = "/tensorflow.serving.PredictionService/Predict"
CLASSIFY = "/tensorflow.serving.PredictionService/Classify"
REGRESS = "/tensorflow.serving.PredictionService/Regress"
METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
HEALTH = "/grpc.health.v1.Health/Check"
METHODS = (PREDICT, CLASSIFY, REGRESS, METADATA, STATUS, RELOAD, HEALTH)

# Versions whose metadata is remembered.
_CACHE_SIZE = 256
_ASK_AGAIN_SECONDS = 5.0

# More is for ever: past some 290 years, infinity too, gRPC counts over into the past.
_LONGEST_SECONDS = 1e9


class Call(NamedTuple):
    """One request, to be sent to one of the client's servers."""

    server: int
    method: str
    request: bytes
    timeout: float | None  # seconds for the answer
    after: float  # seconds to wait first


_Result = TypeVar("_Result")
Steps: TypeAlias = Generator[Call, bytes, _Result]
_Key: TypeAlias = tuple[str, int | None, str | None]


class Answer(dict[str, np.ndarray]):
    """Outputs by name, and who made them. The arrays are read-only: copy what you want to change."""

    def __init__(
        self, outputs: Mapping[str, np.ndarray], model: str, version: int, label: str | None, signature: str
    ) -> None:
        super().__init__(outputs)
        self.model = model
        self.version = version  # the one that answered
        self.label = label  # asked for, or chosen by the split
        self.signature = signature

    def __repr__(self) -> str:
        outputs = ", ".join(
            f"{name}: {'string' if array.dtype == object else array.dtype} {list(array.shape)}"
            for name, array in self.items()
        )
        label = "" if self.label is None else f" ({self.label})"
        return f"<{self.model} version {self.version}{label}, {self.signature}: {outputs}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return Answer, (dict(self), self.model, self.version, self.label, self.signature)


class Calls:
    """The verbs. `servers` are numbers from 0; `Call.server` is one of them."""

    def __init__(
        self, servers: int, timeout: float | None, tries: int, predict: weakref.WeakMethod[Any]
    ) -> None:
        """
        Args:
          timeout: seconds for a call that states none itself; None = no limit.
          tries: how often a call that finds no server is tried again.
          predict: the client's own, for `model`.
        """
        self._timeout = timeout
        self._tries = tries
        self._predict = predict
        self._rotation = retries.Rotation(servers)
        self._budget = retries.Budget()
        self._cache: dict[_Key, schema.ModelMetadata] = {}
        self._asked: dict[tuple[str, int], float] = {}  # model and version -> when `_moved` forgot

    def predict(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        *,
        signature: str = "",
        version: int | None = None,
        label: str | None = None,
        split: canary.Split | None = None,
        outputs: Iterable[str] | None = None,
        timeout: float | None = None,
    ) -> Steps[Answer]:
        """Runs one signature of a model.

        Args:
          model: its name on the server.
          inputs: input name -> array, scalar or (nested) list; str and bytes for string inputs.
            Cast to the signature's dtype when that keeps the meaning (`tensors.to_array` has the
            rules). One value for an input of shape [?] stands for all rows. Inputs with a default may
            be left out: the server fills them in as the signature stores them.
          signature: its name; "" = "serving_default".
          version: a version number; None = the newest one loaded.
          label: a version label, instead of `version`.
          split: shares of versions or labels, instead of both; the answer says which it was.
          outputs: names of the wanted outputs; None = all.
          timeout: seconds for this call, with all that it takes: fetching the metadata, retries. None =
            the client's.
        Returns:
          output name -> array; strings as dtype object holding bytes. The arrays are read-only and share
          the answer's memory where they can.
        Raises:
          errors.ModelNotFound: no such model, version or label.
          errors.SignatureNotFound: no such signature; the message lists those that are.
          errors.InvalidInput: unknown, missing or misshapen input, wrong dtype, unknown output; or
            the model itself refused the values.
        """
        deadline = self._deadline(timeout)
        key = _choice(model, version, label, split)
        wanted = _names(outputs)
        metadata = self._cache.get(key)
        known = metadata is not None
        if metadata is None:
            metadata = yield from self._fetch(key, deadline)
        spec = _spec(key, signature)
        while True:
            try:
                arrays = schema.check(metadata, signature, inputs, wanted)
                request = messages.predict_request(spec, arrays, wanted)
                answer = yield from self._send(PREDICT, request, deadline)
                break
            except (errors.InvalidInput, errors.SignatureNotFound) as error:
                # The server may have moved on to a version with other signatures: look once.
                if not known:
                    raise
                known = False
                try:
                    latest = yield from self._fetch(key, deadline)
                except (errors.ServerUnavailable, errors.DeadlineExceeded):
                    raise error from None
                if latest.version == metadata.version and error.code is not None:
                    raise
                metadata = latest
        answered, arrays = _read(f"model {model!r}", messages.predict_answer, answer)
        if answered.version != metadata.version:
            self._moved(key, answered.version)
        return Answer(arrays, model, answered.version, key[2], answered.signature)

    def classify(
        self,
        model: str,
        examples: Iterable[Mapping[str, Any] | bytes],
        *,
        context: Mapping[str, Any] | None = None,
        signature: str = "",
        version: int | None = None,
        label: str | None = None,
        split: canary.Split | None = None,
        timeout: float | None = None,
    ) -> Steps[Answer]:
        """Runs a signature that takes examples (rows of named features) and gives classes.

        Args:
          model: its name on the server.
          examples: for each row its features by name (a number, a text or a list of them each), or a
            serialized tf.Example.
          context: features that all rows share.
          signature, version, label, split, timeout: as in `predict`.
        Returns:
          "classes", dtype object holding bytes [B, K], and "scores", float32 [B, K]. Where the signature
          gives only one of them, the other holds b"" or 0.
        Raises:
          errors.ModelNotFound, errors.SignatureNotFound: as `predict`.
          errors.InvalidInput: a feature that is neither numbers nor text, or the model refused it.
        """
        key = _choice(model, version, label, split)
        return (yield from self._examples(CLASSIFY, key, signature, examples, context, timeout))

    def regress(
        self,
        model: str,
        examples: Iterable[Mapping[str, Any] | bytes],
        *,
        context: Mapping[str, Any] | None = None,
        signature: str = "",
        version: int | None = None,
        label: str | None = None,
        split: canary.Split | None = None,
        timeout: float | None = None,
    ) -> Steps[Answer]:
        """Runs a signature that takes examples (rows of named features) and gives one number for each.

        Args:
          model, examples, context, signature, version, label, split, timeout: as in `classify`.
        Returns:
          "outputs", float32 [B].
        Raises:
          errors.ModelNotFound, errors.SignatureNotFound, errors.InvalidInput: as `classify`.
        """
        key = _choice(model, version, label, split)
        return (yield from self._examples(REGRESS, key, signature, examples, context, timeout))

    def metadata(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> Steps[schema.ModelMetadata]:
        """Signatures of a model, remembered until a call shows that the server moved on.

        Raises:
          errors.ModelNotFound: no such model, version or label.
        """
        key = _choice(model, version, label, None)
        found = self._cache.get(key)
        return found or (yield from self._fetch(key, self._deadline(timeout)))

    def status(
        self, model: str, *, version: int | None = None, timeout: float | None = None
    ) -> Steps[list[VersionStatus]]:
        """State of every version the server has seen, newest first, or of the one asked for.

        Raises:
          errors.ModelNotFound: the server knows no version of the model, or not this one.
        """
        from serving import rpc

        request = rpc.status_request(_spec(_choice(model, version, None, None)))
        answer = yield from self._send(STATUS, request, self._deadline(timeout))
        return _read(f"model {model!r}", rpc.read_status, answer)

    def reload(
        self,
        models: Mapping[str, str | os.PathLike[str] | ServedModel] | str | os.PathLike[str],
        *,
        timeout: float | None = None,
    ) -> Steps[None]:
        """Tells the server what to serve from now on; returns when new models are available.

        Every server that this client knows is told.

        Args:
          models: name -> base path or `ServedModel`; or the path of a ModelServerConfig text file. All
            that is to be served: models that are not named are unloaded.
          timeout: as in `predict`.
        Raises:
          errors.InvalidInput: the server refuses the list, or the file is no ModelServerConfig.
          OSError: the file cannot be read.
          errors.ServerError: a new model could not be loaded, or a label names a version that is not loaded
            yet (load first, then label).
        """
        from serving import rpc

        deadline = self._deadline(timeout)
        try:
            request = rpc.reload_request(models)
        except ValueError as error:
            raise errors.InvalidInput(str(error)) from None
        for server in range(self._rotation.count):
            answer = yield from self._send(RELOAD, request, deadline, server)
            failure = _read("reload", rpc.read_reload, answer)
            if failure:
                raise errors.ServerError(failure)

    def health(self, service: str = "", *, timeout: float | None = None) -> Steps[str]:
        """What the server says of itself: "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN" or "UNKNOWN".

        Args:
          service: "" = the server as a whole; the embedded server also knows each model's name.
          timeout: as in `predict`.
        Raises:
          errors.NotSupported: it was started without --enable_grpc_healthcheck_service.
        """
        from serving import rpc

        try:
            answer = yield from self._send(HEALTH, rpc.health_request(service), self._deadline(timeout))
        except errors.ModelNotFound:
            return "SERVICE_UNKNOWN"
        return _read("health", rpc.read_health, answer)

    def model(
        self,
        name: str,
        *,
        version: int | None = None,
        label: str | None = None,
        split: canary.Split | None = None,
        timeout: float | None = None,
    ) -> Steps[methods.Model]:
        """One model as an object whose signatures are its methods: `m.sample(seed=range(16), label=3)`.

        Args:
          name: the model's on the server.
          version, label, split: as in `predict`, for all its calls.
          timeout: seconds for each of its calls, and for fetching its signatures now. None = the client's.
        Raises:
          errors.ModelNotFound: no such model, version or label.
        """
        key = _choice(name, version, label, split)
        metadata = self._cache.get(key) or (yield from self._fetch(key, self._deadline(timeout)))
        predict = self._predict()
        assert predict is not None  # whoever asks holds the client
        options = {"version": version, "label": label, "split": split, "timeout": timeout}
        return methods.Model(metadata, lambda: self._cache.get(key), predict, options)

    # --- Steps that the verbs share --------------------------------------------------------------

    def _deadline(self, timeout: float | None) -> float | None:
        seconds = self._timeout if timeout is None else timeout
        if seconds is None:
            return None
        try:
            valid = not math.isnan(seconds)
        except TypeError:
            valid = False
        if not valid:
            raise errors.InvalidInput(f"expected a timeout in seconds, or None, given {seconds!r}")
        return None if seconds > _LONGEST_SECONDS else time.monotonic() + seconds

    def _examples(
        self,
        method: str,
        key: _Key,
        signature: str,
        examples: Iterable[Mapping[str, Any] | bytes],
        context: Mapping[str, Any] | None,
        timeout: float | None,
    ) -> Steps[Answer]:
        from serving import rpc

        try:
            request = rpc.examples_request(_spec(key, signature), examples, context)
        except ValueError as error:
            raise errors.InvalidInput(str(error)) from None
        answer = yield from self._send(method, request, self._deadline(timeout))
        read = rpc.read_classify if method is CLASSIFY else rpc.read_regress
        answered, arrays = _read(f"model {key[0]!r}", read, answer)
        return Answer(arrays, key[0], answered.version, key[2], answered.signature)

    def _fetch(self, key: _Key, deadline: float | None) -> Steps[schema.ModelMetadata]:
        from serving import rpc

        answer = yield from self._send(METADATA, rpc.metadata_request(_spec(key)), deadline)
        metadata = _read(f"model {key[0]!r}", lambda wire: rpc.read_metadata(key[0], wire), answer)
        self._remember(key, metadata)
        self._remember((key[0], metadata.version, None), metadata)
        return metadata

    def _remember(self, key: _Key, metadata: schema.ModelMetadata) -> None:
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
            self._asked.clear()
        self._cache[key] = metadata

    def _moved(self, key: _Key, version: int) -> None:
        """Takes the metadata of the version that answered, or forgets all, to ask at the next call.

        Servers in rotation may be at different versions for a while, and the one that is asked need not be
        the one that answered: so the next calls do not ask for the same version's again.
        """
        known = self._cache.get((key[0], version, None))
        now = time.monotonic()
        if known is not None:
            self._remember(key, known)
        elif now - self._asked.get((key[0], version), -_ASK_AGAIN_SECONDS) >= _ASK_AGAIN_SECONDS:
            self._asked[key[0], version] = now
            self._cache.pop(key, None)

    def _send(
        self, method: str, request: bytes, deadline: float | None, server: int | None = None
    ) -> Steps[bytes]:
        """One answer, after as many tries as the rules allow; `server`: only this one."""
        self._budget.call()
        began = time.monotonic()
        tried, retry, moves, after = 0, 0, 0, 0.0
        while True:
            at = self._rotation.next() if server is None else server
            timeout = None if deadline is None else deadline - time.monotonic() - after
            try:
                answer = yield Call(at, method, request, timeout, after)
            except errors.ServerUnavailable as error:
                tried += 1
                elsewhere = self._rotation.failed(at)
                if elsewhere and server is None and moves < self._rotation.count - 1:
                    moves, after = moves + 1, 0.0
                    continue
                moves, after = 0, retries.pause(retry)
                late = deadline is not None and time.monotonic() + after >= deadline
                if retry >= self._tries or late or not self._budget.take():
                    if tried > 1:
                        raise errors.ServerUnavailable(f"{error} (tried {tried} times)", error.code) from None
                    raise
                retry += 1
            except errors.DeadlineExceeded as error:
                raise errors.DeadlineExceeded(
                    f"no answer within {time.monotonic() - began:.3g} s ({error})", error.code
                ) from None
            else:
                self._rotation.answered(at)
                return answer


def name_after(method: Callable[..., Any], client: str, run: Callable[..., Any]) -> None:
    """Gives the method `run` of class `client` the name, docstring and signature of the verb it does."""
    signature = inspect.signature(method)
    result = signature.return_annotation.removeprefix("Steps[").removesuffix("]")
    run.__name__, run.__doc__ = method.__name__, method.__doc__
    run.__qualname__ = f"{client}.{method.__name__}"
    run.__signature__ = signature.replace(return_annotation=result)  # type: ignore[attr-defined]


def _choice(model: str, version: int | None, label: str | None, split: canary.Split | None) -> _Key:
    if sum(each is not None for each in (version, label, split)) > 1:
        raise errors.InvalidInput("give a version, a label or a split, not two of them")
    if split is not None:
        arm = split.choose()
        version, label = (arm, None) if isinstance(arm, int) else (None, arm)
    if not isinstance(model, str):
        raise errors.InvalidInput(f"expected a model's name, given {model!r}")
    if label is not None and not isinstance(label, str):
        raise errors.InvalidInput(f"expected a version label, a text, given {label!r}")
    if version is not None and not (isinstance(version, int) and 0 <= version < 2**63):
        raise errors.InvalidInput(f"expected a version number from 0 to 2**63 - 1, given {version!r}")
    return model, version, label


def _names(outputs: Iterable[str] | None) -> Sequence[str]:
    if isinstance(outputs, str):
        raise errors.InvalidInput(f"expected names of outputs in a list, given the text {outputs!r}")
    return () if outputs is None else list(outputs)


def _spec(key: _Key, signature: str = "") -> bytes:
    try:
        return messages.model_spec(*key, signature)
    except UnicodeEncodeError as error:
        raise errors.InvalidInput(f"{error.object!r} is not UTF-8, as names on a server are") from None


def _read(what: str, read: Callable[[bytes], _Result], answer: bytes) -> _Result:
    try:
        return read(answer)
    except ValueError as error:
        raise errors.ServerError(f"{what}: unreadable answer: {error}") from error
