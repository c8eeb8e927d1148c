"""`<base>/models.config`: which version of each model is `stable` and which is `canary`.

A ModelServerConfig in protobuf's text format, as TensorFlow Serving and our server read and follow it:

    --model_config_file=<base>/models.config --model_config_file_poll_wait_seconds=1
    --allow_version_labels_for_unavailable_models

Both check the labels of a new config before they act on the rest of it, refuse it as a whole where a label
would move to a version that is not loaded, and try the file again at each poll. So the policy of each model
is `latest { num_versions: 2 }`, never `specific`: a new version is loaded because it lies there, and one
write, which moves the label, is taken up by every server as soon as it has the version. With `specific` the
write that moves the label would have to wait for all servers to have read the one that adds the version, or
else be refused for ever.

A model always has both labels: `canary` is the stable version where there is no canary, so that clients that
send a share of their requests there can go on. No TensorFlow.
"""

import pathlib

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from zoo.errors import UserError
from zoo.files import atomic_write

FILE = "models.config"
STABLE, CANARY = "stable", "canary"
# The newest and the one before it: what a rollback returns to, or the stable one beside a canary.
_LOADED = 2

_HEADER = """\
# Written by atelier-push, which keeps what you add: models, other fields, the comments up here. Serve it with
#   --model_config_file=<this file> --model_config_file_poll_wait_seconds=1
#   --allow_version_labels_for_unavailable_models
"""


def labels(base: pathlib.Path, model: str) -> dict[str, int]:
    """Label -> version of a model; none if the file does not list it.

    Raises:
        UserError: the file cannot be read, or serves the model in a way that no push can work with.
    """
    entry = _entry(base, _read(base)[1], model)
    return {} if entry is None else dict(entry.version_labels)


def assign(base: pathlib.Path, model: str, stable: int, canary: int) -> None:
    """Moves a model's labels, and adds the model if need be; all else in the file stays as it is.

    Raises:
        UserError: as `labels`.
    """
    header, config = _read(base)
    entry = _entry(base, config, model)
    if entry is None:
        entry = config.model_config_list.config.add(
            name=model, base_path=str((base / model).resolve()), model_platform="tensorflow"
        )
    if not entry.HasField("model_version_policy"):
        entry.model_version_policy.latest.num_versions = _LOADED
    entry.version_labels[STABLE], entry.version_labels[CANARY] = stable, canary
    text = text_format.MessageToString(config, as_utf8=True)
    atomic_write(base / FILE, (header + text).encode())


def _read(base: pathlib.Path) -> tuple[str, model_server_config_pb2.ModelServerConfig]:
    """(comments at the top, config)"""
    path = base / FILE
    config = model_server_config_pb2.ModelServerConfig()
    if not path.exists():
        return _HEADER, config
    try:
        text = path.read_text(encoding="utf-8")
        text_format.Parse(text, config)
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no ModelServerConfig ({error}): mend it and try again") from error
    if config.WhichOneof("config") == "custom_model_config":
        raise UserError(f"{path} holds a custom_model_config: a push needs a model_config_list")
    lines = text.splitlines(keepends=True)
    first = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "".join(lines[:first]), config


def _entry(
    base: pathlib.Path, config: model_server_config_pb2.ModelServerConfig, model: str
) -> model_server_config_pb2.ModelConfig | None:
    entry = next((x for x in config.model_config_list.config if x.name == model), None)
    if entry is None:
        return None
    path = base / FILE
    # The folder may be mounted elsewhere on the servers: its name must do.
    if pathlib.PurePath(entry.base_path).name != model:
        raise UserError(
            f"{path} serves {model} from {entry.base_path}, and a push would put it into {base / model}: "
            "change its base_path, or push under another name"
        )
    policy = entry.model_version_policy
    if policy.HasField("specific") or (policy.HasField("latest") and policy.latest.num_versions < _LOADED):
        raise UserError(
            f"{path} serves {model} by a model_version_policy that could lose the stable version: "
            f"expected latest {{ num_versions: {_LOADED} }} or more, all {{}}, or none"
        )
    return entry
