"""Which models and versions are loaded, and running their signatures: the server's core.

A `Servable` is one loaded SavedModel. A `Repository` follows the base paths of its models: loads
new versions, swaps without a gap, unloads what is no longer wanted once its requests have finished.
Adapters (`grpc_api`) only translate.

Errors are `tf.errors.OpError`s: their codes are gRPC's, and the texts those of TensorFlow Serving,
which clients match on.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import error_codes_pb2, meta_graph_pb2
from tensorflow.python.client import pywrap_tf_session
from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving import tensors

State = get_model_status_pb2.ModelVersionStatus.State

_log = logging.getLogger(__name__)

_DEFAULT_SIGNATURE = "serving_default"
_MAX_TIMEOUT_SECONDS = 1e9  # gRPC gives calls without a deadline one in the far future


def status_text(error: tf.errors.OpError) -> str:
    """ "NOT_FOUND: message", as absl::Status prints itself."""
    return f"{error_codes_pb2.Code.Name(error.error_code)}: {error.message}"


def _error(kind: type[tf.errors.OpError], message: str) -> tf.errors.OpError:
    return kind(None, None, message)


def _invalid(message: str) -> tf.errors.OpError:
    return _error(tf.errors.InvalidArgumentError, message)


# --- One loaded version --------------------------------------------------------------------------


class Servable:
    """A SavedModel in a session of its own, as the stock server holds it.

    Loaded by the session loader and run through TF_SessionRun itself: shapes are not checked
    against the signature there, and messages are the runtime's own, both as upstream.
    """

    def __init__(self, path: str, tags: Sequence[str], session_config: tf.compat.v1.ConfigProto):
        """Loads `path` and runs its initializers.

        Raises:
          tf.errors.OpError: no SavedModel there, it is damaged, or lacks the tags.
        """
        if not tf.saved_model.contains_saved_model(path):
            raise _error(
                tf.errors.NotFoundError,
                "Could not find SavedModel .pb or .pbtxt at supplied export directory path: "
                f"{path}",
            )
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=self._graph, config=session_config)
        try:
            with self._graph.as_default():
                meta_graph: meta_graph_pb2.MetaGraphDef = tf.compat.v1.saved_model.load(
                    self._session, list(tags), path
                )
        except OSError as error:  # the Python loader's word for a file it cannot parse
            self.close()
            raise _error(
                tf.errors.DataLossError, f"Can't parse {path}/saved_model.pb as binary proto"
            ) from error
        except RuntimeError as error:  # the Python loader's word for missing tags
            self.close()
            raise _error(
                tf.errors.NotFoundError,
                f"Could not find meta graph def matching supplied tags: {{ {' '.join(tags)} }}. To "
                "inspect available tag-sets in the SavedModel, please use the SavedModel CLI: "
                "`saved_model_cli`",
            ) from error
        except BaseException:
            self.close()
            raise
        self.signature_defs: Mapping[str, meta_graph_pb2.SignatureDef] = dict(
            meta_graph.signature_def
        )
        self._handles = {
            info.name: self._graph.get_tensor_by_name(info.name)._as_tf_output()
            for definition in self.signature_defs.values()
            for info in (*definition.inputs.values(), *definition.outputs.values())
            # Sparse inputs have no one tensor; initializers are operations.
            if ":" in info.name
        }

    def predict(
        self,
        signature_name: str,
        inputs: Mapping[str, tensor_pb2.TensorProto],
        output_filter: Sequence[str],
        timeout: float | None,
    ) -> tuple[str, dict[str, np.ndarray]]:
        """Runs one signature.

        Args:
          signature_name: "" = serving_default.
          inputs: by the signature's names; those with a default may be left out.
          output_filter: wanted outputs; empty = all.
          timeout: seconds, None = none.
        Returns:
          (the signature's name, output name -> array).
        Raises:
          tf.errors.OpError: codes and texts of upstream's predict_util.cc and the ops' own.
        """
        signature_name = signature_name or _DEFAULT_SIGNATURE
        if signature_name not in self.signature_defs:
            raise _error(
                tf.errors.FailedPreconditionError,
                f'Serving signature key "{signature_name}" not found.',
            )
        signature = self.signature_defs[signature_name]
        feeds = _feeds(signature, inputs)
        names = _output_names(signature, output_filter)
        arrays = self.run(feeds, [signature.outputs[name].name for name in names], timeout)
        return signature_name, dict(zip(names, arrays, strict=True))

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout: float | None
    ) -> list[np.ndarray]:
        """Feeds and fetches tensors of a signature by their names in the graph.

        Raises:
          tf.errors.OpError: the runtime's; DeadlineExceededError after `timeout` seconds.
        """
        options = None
        if timeout is not None and timeout < _MAX_TIMEOUT_SECONDS:
            # 0 would mean "no timeout" here.
            run_options = tf.compat.v1.RunOptions(timeout_in_ms=max(1, int(timeout * 1000)))
            options = pywrap_tf_session.TF_NewBufferFromString(run_options.SerializeToString())
        try:
            return self._session._call_tf_sessionrun(
                options,
                {self._handles[name]: array for name, array in feeds.items()},
                [self._handles[name] for name in fetches],
                [],
                None,
            )
        except UnicodeDecodeError as error:
            # The runtime's message quoted input bytes that are not UTF-8.
            raise _invalid(error.object.decode(errors="replace")) from None
        finally:
            if options is not None:
                pywrap_tf_session.TF_DeleteBuffer(options)

    def close(self) -> None:
        """Frees the session; nothing may run any more."""
        self._session.close()


def _feeds(
    signature: meta_graph_pb2.SignatureDef, inputs: Mapping[str, tensor_pb2.TensorProto]
) -> dict[str, np.ndarray]:
    """Graph tensor name -> array, for every input of the signature."""
    sent, known, defaults = set(inputs), set(signature.inputs), set(signature.defaults)
    if len(sent) > len(known) or (len(sent) < len(known) and not defaults):
        raise _invalid(
            f"input size does not match signature: {len(sent)}!={len(known)} "
            f"len({_set(sent)}) != len({_set(known)}). Sent extra: {_set(sent - known)}. "
            f"Missing but required: {_set(known - sent)}."
        )
    feeds = {}
    for alias, info in sorted(signature.inputs.items()):
        if alias not in sent and alias not in defaults:
            raise _invalid(
                f"Signature input alias: {alias}(feed name: {info.name}) not found in request and "
                f"no default value provided. Inputs expected to be in the request {_set(sent)}, or "
                f"default input alias set: {','.join(sorted(defaults))}"
            )
        proto = inputs[alias] if alias in sent else signature.defaults[alias]
        try:
            feeds[info.name] = tensors.from_proto(proto)
        except ValueError as error:
            _log.debug("input %s: %s", alias, error)  # upstream's text does not hold the reason
            raise _invalid(f"tensor parsing error: {alias}") from None
    if sent and not sent <= known:
        raise _invalid(
            f"Inputs contains invalid name. Used request inputs: {','.join(sorted(sent & known))}, "
            f"request input: {','.join(sorted(sent))}"
        )
    return feeds


def _output_names(
    signature: meta_graph_pb2.SignatureDef, output_filter: Sequence[str]
) -> list[str]:
    seen: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise _invalid(
                f"output tensor alias not found in signature: {alias} Outputs expected to be in "
                f"the set {_set(signature.outputs)}."
            )
        if alias in seen:
            raise _invalid(f"duplicate output tensor alias: {alias}")
        seen.append(alias)
    return seen or sorted(signature.outputs)


def _set(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


# --- All models ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """How a repository loads; names and defaults are those of upstream's flags."""

    file_system_poll_wait_seconds: int = 1  # 0: look once; < 0: never look
    max_num_load_retries: int = 5
    load_retry_interval_micros: int = 60_000_000  # < 0: do not wait
    saved_model_tags: Sequence[str] = ("serve",)
    session_config: Any = field(default_factory=tf.compat.v1.ConfigProto)


class _Version:
    """State of one version of one model. Guarded by the repository's condition."""

    def __init__(self, model: str, number: int, path: str) -> None:
        self.model = model
        self.number = number
        self.path = path
        self.state: int = State.START
        self.error: tf.errors.OpError | None = None
        self.servable: Servable | None = None
        self.aspired = True
        self.users = 0  # requests that run on `servable`
        self.cancelled = threading.Event()  # no longer aspired: stop trying to load it

    def __str__(self) -> str:
        return f"{{name: {self.model} version: {self.number}}}"


class Repository:
    """The models of a server and their versions.

    Versions are the children of a model's base path whose names are integers. A version that fails
    to load is retried, then stays in state END until it disappears and comes back; whatever served
    before goes on serving.
    """

    def __init__(
        self, models: Iterable[model_server_config_pb2.ModelConfig], options: Options
    ) -> None:
        """Checks the configuration; loads nothing yet.

        Raises:
          tf.errors.InvalidArgumentError: with upstream's text.
        """
        self._models: dict[str, model_server_config_pb2.ModelConfig] = {}
        for model in models:
            if model.name in self._models:
                raise _invalid(f"Illegal to list model {model.name} multiple times in config list")
            _check_model(model)
            self._models[model.name] = model
        self._options = options
        self._changed = threading.Condition()
        self._versions: dict[str, dict[int, _Version]] = {name: {} for name in self._models}
        self._stopped = threading.Event()

    def start(self) -> None:
        """Begins to follow the base paths; returns when each model has a version available.

        Waits for ever for a model without any version, as upstream.

        Raises:
          tf.errors.UnknownError: every version of a model failed all its tries.
        """
        threading.Thread(target=self._follow, name="model-polling", daemon=True).start()
        with self._changed:
            self._changed.wait_for(lambda: all(map(self._settled, self._models)))
            failed = [
                version
                for name in self._models
                if self._ready(name) is None
                for version in self._versions[name].values()
                if version.aspired and version.error
            ]
        if failed:
            causes = "".join(f"{{{v} due to error: {status_text(v.error)}}}, " for v in failed)
            raise _error(
                tf.errors.UnknownError,
                f"{len(failed)} servable(s) did not become available: {{{causes}}}",
            )

    def stop(self) -> None:
        """Stops following the base paths and gives up loads; loaded versions stay."""
        self._stopped.set()
        with self._changed:
            for versions in self._versions.values():
                for version in versions.values():
                    version.cancelled.set()

    @contextlib.contextmanager
    def use(
        self, model: str, version: int | None = None, label: str | None = None
    ) -> Iterator[tuple[Servable, int]]:
        """A loaded version and its number, kept loaded inside the `with` block.

        Args:
          model: its name.
          version: None = the highest that is available.
          label: instead of `version`, a label from the configuration.
        Raises:
          tf.errors.InvalidArgumentError: no name, or an unknown label.
          tf.errors.NotFoundError: no such model or version is loaded.
        """
        if not model:
            raise _invalid("ModelSpec has no name specified.")
        if label is not None:
            labels = self._models[model].version_labels if model in self._models else {}
            if label not in labels:
                raise _invalid(f"Unrecognized servable version label: {label}")
            version = labels[label]
        with self._changed:
            chosen = self._ready(model, version)
            if chosen is None or chosen.servable is None:
                wanted = f"Latest({model})" if version is None else f"Specific({model}, {version})"
                raise _error(tf.errors.NotFoundError, f"Servable not found for request: {wanted}")
            servable = chosen.servable
            chosen.users += 1
        try:
            yield servable, chosen.number
        finally:
            with self._changed:
                chosen.users -= 1
                if not chosen.users:
                    self._changed.notify_all()

    def status(
        self, model: str, version: int | None = None
    ) -> list[tuple[int, int, tf.errors.OpError | None]]:
        """(version, State, error) of every version ever seen, highest first, or of the one given.

        Raises:
          tf.errors.InvalidArgumentError: no name.
          tf.errors.NotFoundError: nothing is known of the model, or of this version.
        """
        if not model:
            raise _invalid("ModelSpec has no name specified.")
        with self._changed:
            versions = self._versions.get(model, {})
            found = [v for n, v in versions.items() if version is None or n == version]
            if not found:
                what = "any versions" if version is None else f"version {version}"
                raise _error(tf.errors.NotFoundError, f"Could not find {what} of model {model}")
            return sorted(
                ((v.number, v.state, v.error) for v in found),
                reverse=True,
                key=lambda entry: entry[0],
            )

    # Following the file system.

    def _follow(self) -> None:
        wait = self._options.file_system_poll_wait_seconds
        if wait < 0:
            return
        known_complaints: list[str] = []
        while not self._stopped.is_set():
            complaints = self._poll()
            for complaint in complaints:
                if complaint not in known_complaints:  # said once, not at each poll
                    _log.warning("%s", complaint)
            known_complaints = complaints
            if wait == 0:
                return
            self._stopped.wait(wait)

    def _poll(self) -> list[str]:
        """Looks at the base paths and acts on what is there; returns what is wrong with them."""
        complaints: list[str] = []
        try:
            found = {name: self._aspired(model, complaints) for name, model in self._models.items()}
        except tf.errors.OpError as error:
            # One unreadable path and the whole poll counts for nothing: nothing is unloaded.
            return [error.message]
        with self._changed:
            for name, versions in found.items():
                self._aspire(name, versions)
        return complaints

    def _aspired(
        self, model: model_server_config_pb2.ModelConfig, complaints: list[str]
    ) -> dict[int, str]:
        """Version -> path of the versions on disk that the model's policy wants."""
        try:
            children = tf.io.gfile.listdir(model.base_path)
        except tf.errors.OpError as error:
            raise _error(
                type(error),
                "FileSystemStoragePathSource encountered a filesystem access error: Could not find "
                f"base path {model.base_path} for servable {model.name} with error "
                f"{status_text(error)}",
            ) from error
        names = {}
        for name in sorted(child.rstrip("/") for child in children):
            # What C++ reads as an int64: no spaces, underscores or foreign digits.
            if name.isascii() and name.removeprefix("-").isdigit() and abs(int(name)) < 2**63:
                names[int(name)] = f"{model.base_path.rstrip('/')}/{name}"
        if not names:
            complaints.append(
                f"No versions of servable {model.name} found under base path {model.base_path}."
            )
        policy = model.model_version_policy
        if policy.HasField("all"):
            return names
        if policy.HasField("specific"):
            for number in policy.specific.versions:
                if number not in names:
                    complaints.append(
                        f"Version {number} of servable {model.name}, which was requested to be "
                        "served as a 'specific' version in the servable's version policy, was not "
                        "found in the file system",
                    )
            return {n: path for n, path in names.items() if n in policy.specific.versions}
        count = policy.latest.num_versions or 1
        return {number: names[number] for number in sorted(names)[-count:]}

    def _aspire(self, name: str, wanted: Mapping[int, str]) -> None:
        """Takes over what one poll found. Called with the condition held."""
        versions = self._versions[name]
        for number, version in versions.items():
            if version.aspired and number not in wanted:
                version.aspired = False
                version.cancelled.set()
        for number in sorted(wanted, reverse=True):
            known = versions.get(number)
            if known is None or (not known.aspired and known.state == State.END):
                version = versions[number] = _Version(name, number, wanted[number])
                threading.Thread(
                    target=self._load, args=(version,), name=f"load-{name}-{number}", daemon=True
                ).start()
            elif not known.aspired and known.state == State.AVAILABLE:
                known.aspired = True  # came back before its successor was ready
        self._unload_unwanted(name)

    def _unload_unwanted(self, name: str) -> None:
        """Lets go of versions no longer wanted, unless that would leave the model with none.

        Called with the condition held.
        """
        versions = self._versions[name].values()
        ready = [version for version in versions if version.state == State.AVAILABLE]
        if any(v.aspired for v in versions) and not any(v.aspired for v in ready):
            return  # availability-preserving: the successor is not ready yet
        for version in ready:
            if not version.aspired:
                version.state = State.UNLOADING
                threading.Thread(target=self._unload, args=(version,), daemon=True).start()

    def _load(self, version: _Version) -> None:
        with self._changed:
            version.state = State.LOADING
        servable, error = self._try_to_load(version)
        with self._changed:
            version.servable, version.error = servable, error
            version.state = State.AVAILABLE if servable is not None else State.END
            # Cancelled while the last try succeeded: it is unwanted now, and unloaded as such.
            self._unload_unwanted(version.model)
            self._changed.notify_all()

    def _try_to_load(self, version: _Version) -> tuple[Servable | None, tf.errors.OpError | None]:
        options = self._options
        error: tf.errors.OpError = _error(tf.errors.CancelledError, "Loading was cancelled")
        for attempt in range(1 + options.max_num_load_retries):
            if attempt:
                version.cancelled.wait(max(0.0, options.load_retry_interval_micros / 1e6))
            if version.cancelled.is_set():
                break
            _log.info("Loading servable version %s from %s", version, version.path)
            try:
                servable = Servable(version.path, options.saved_model_tags, options.session_config)
            except tf.errors.OpError as failure:
                error = failure
            except Exception as failure:
                # Whatever a broken file makes the loader raise is this version's state and is shown
                # in the log and in GetModelStatus; it must not end the server.
                error = _error(tf.errors.UnknownError, f"{type(failure).__name__}: {failure}")
            else:
                _log.info("Successfully loaded servable version %s", version)
                return servable, None
            _log.error("Servable %s cannot be loaded: %s", version, status_text(error))
        return None, error

    def _unload(self, version: _Version) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not version.users)
            servable, version.servable = version.servable, None
        if servable is not None:
            servable.close()
        with self._changed:
            version.state = State.END
            self._changed.notify_all()
        _log.info("Done unloading servable version %s", version)

    # With the condition held.

    def _ready(self, name: str, number: int | None = None) -> _Version | None:
        ready = [
            version
            for version in self._versions.get(name, {}).values()
            if version.state == State.AVAILABLE and (number is None or version.number == number)
        ]
        return max(ready, key=lambda version: version.number, default=None)

    def _settled(self, name: str) -> bool:
        """One version is available, or all that are wanted have ended."""
        aspired = [version for version in self._versions[name].values() if version.aspired]
        return self._ready(name) is not None or (
            bool(aspired) and all(version.state == State.END for version in aspired)
        )


def _check_model(model: model_server_config_pb2.ModelConfig) -> None:
    """Raises InvalidArgumentError for what upstream refuses in a ModelConfig."""
    if not model.model_platform and not model.model_type:
        raise _invalid(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor "
            f"ModelServerConfig::model_platform, model name is {model.name}"
        )
    if model.model_platform not in ("", "tensorflow"):
        raise _invalid(f"Model {model.name} requests unsupported platform {model.model_platform}")
    if not model.base_path.startswith("/") and "://" not in model.base_path:
        raise _invalid(
            f"Expected model {model.name} to have an absolute path or URI; got "
            f"base_path()={model.base_path}"
        )
    if model.HasField("logging_config"):
        raise _invalid("No request-logger-creator provided.")
