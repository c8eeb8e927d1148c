"""Deploys a model config by Docker Compose, Kubernetes or KServe, with TensorFlow Serving's image or ours.

    config, text = read(Path("models.config"))
    write(kubernetes(config, text, Options(name="paintings")), Path("deploy"))

Both servers take the same flags, so a manifest for one is a manifest for the other but for the image, the
command and the probes. No TensorFlow here; TensorFlow Serving's protos and PyYAML only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.engine import OWN_FLAGS, TFSERVING_IMAGE

Config: TypeAlias = model_server_config_pb2.ModelServerConfig
Files: TypeAlias = dict[str, str]  # name, relative to the output folder -> text

GRPC_PORT, REST_PORT = 8500, 8501

CONFIG_FOLDER = "/etc/atelier"  # in the container
_MODELS_FILE = "models.config"

# How soon an edited config is served: the ConfigMap takes about as long to arrive.
_POLL_SECONDS = 60

# From the decision to end a pod until no new request comes: the endpoints' change has to reach all nodes.
_LEAVE_SECONDS = 15
# TensorFlow Serving has no handler for SIGTERM, and as process 1 it ignores the signal: it answers what is
# in flight until it is killed at the end of this. The embedded server drains for up to 60 s, then exits.
_DRAIN_SECONDS = {"tfserving": 30, "embedded": 65}

_START_SECONDS = 600  # a model may take minutes to load and warm up

_REPLICAS = (2, 10)
_CPU_PERCENT = 70

# Kubernetes allows 63; its and KServe's controllers append to it.
_NAME_LENGTH = 45
_NAME = re.compile(rf"(?=.{{1,{_NAME_LENGTH}}}\Z)[a-z]([-a-z0-9]*[a-z0-9])?")
_NAME_RULE = f"at most {_NAME_LENGTH} of a-z, 0-9 and -, from a letter to a letter or digit"
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?")
_CLAIM = re.compile(r"pvc://([a-z0-9]([-.a-z0-9]*[a-z0-9])?)(/.*)?")

_COMMAND = {"tfserving": "tensorflow_model_server", "embedded": "atelier-serve"}
# embedded: serving/deploy/Dockerfile says how to build it.
_IMAGE = {"tfserving": TFSERVING_IMAGE, "embedded": "atelier-serve:latest"}

# What a manifest sets itself.
_OUR_FLAGS = {
    "port",
    "rest_api_port",
    "grpc_socket_path",
    "model_config_file",
    "model_config_file_poll_wait_seconds",
    "model_name",
    "model_base_path",
    "engine",
}
# Files that go beside the model config. --ssl_config_file holds a private key: no ConfigMap for it.
_FILE_FLAGS = {"batching_parameters_file", "monitoring_config_file", "tensorflow_session_config_file"}
_SECRET_FLAGS = {"ssl_config_file"}

# A volume mounted over one of these, or over a parent, would hide what the image needs.
_SYSTEM = (
    "/bin",
    "/dev",
    "/etc",
    "/lib",
    "/proc",
    "/sys",
    "/usr/bin",
    "/usr/lib",
    "/usr/local/bin",
    "/usr/local/lib",
)


class DeployError(Exception):
    """The config or the options cannot be deployed so; the message is one line that says why."""


@dataclass(frozen=True)
class Options:
    """What the model config does not say. `__post_init__` raises DeployError."""

    name: str = "atelier-serve"  # of every object
    engine: str = "tfserving"  # or embedded: which server the image holds
    image: str = ""  # "": the engine's own
    storage_uri: str = ""  # where the cluster finds the folder of the local base paths; "": pvc://NAME-models
    cpu: str = "1"  # asked for by each replica, as Kubernetes writes it
    memory: str = "2Gi"  # of each replica, at most
    protocol: str = "grpc-v1"  # of KServe's one port; or v1: REST
    flags: Sequence[str] = field(default_factory=tuple)  # more of the server's own

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise DeployError(f"--name={self.name}: expected {_NAME_RULE}")
        for flag, value in (("cpu", self.cpu), ("memory", self.memory)):
            if not _QUANTITY.fullmatch(value):
                raise DeployError(f"--{flag}={value}: expected a quantity of Kubernetes, such as 500m or 2Gi")
        if re.search(r"\s", self.image):
            raise DeployError(f"--image={self.image}: expected an image's name, without spaces")
        for text in self.flags:
            name = text.removeprefix("--").partition("=")[0]
            if not text.startswith("--"):
                raise DeployError(f"{text}: expected a flag of the server, --name=value")
            if name in _OUR_FLAGS:
                raise DeployError(f"--{name}: the manifest sets it itself")
            if name in _SECRET_FLAGS:
                raise DeployError(f"--{name}: it holds a private key; mount it from a secret by hand")
            if self.engine == "tfserving" and name in OWN_FLAGS:
                raise DeployError(f"--{name}: TensorFlow Serving has no such flag; --engine=embedded has")

    @property
    def storage(self) -> str:
        return (self.storage_uri or f"pvc://{self.name}-models").rstrip("/")


def read(path: Path) -> tuple[Config, str]:
    """A ModelServerConfig in text format, and its text.

    Raises:
      DeployError: not such a text, or a config that no server takes.
      OSError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
        config = text_format.Parse(text, Config())
    except (UnicodeDecodeError, text_format.ParseError) as error:
        raise DeployError(f"{path} is no ModelServerConfig: {error}") from None
    models = config.model_config_list.config
    if not models:
        raise DeployError(f"{path} lists no models")
    names = set()
    for model in models:
        if not model.name:
            raise DeployError(f"{path}: a model has no name")
        if model.name in names:
            raise DeployError(f"{path}: model {model.name} is listed twice")
        names.add(model.name)
        if not model.base_path.startswith("/") and "://" not in model.base_path:
            raise DeployError(
                f"{path}: model {model.name} needs an absolute base_path or a URI, given {model.base_path!r}"
            )
        if model.model_platform != "tensorflow" and model.model_type != model_server_config_pb2.TENSORFLOW:
            raise DeployError(f'{path}: model {model.name} needs model_platform: "tensorflow"')
    return config, text


def write(files: Files, folder: Path) -> list[Path]:
    """Writes each file whole or not at all, over an older one; returns the paths.

    Raises:
      OSError: `folder` cannot be written.
    """
    paths = []
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        paths.append(path)
    return paths


# --- Docker Compose ------------------------------------------------------------------------------


def compose(config: Config, text: str, options: Options) -> Files:
    """compose.yaml and the folder config/ that it mounts. Local base paths are mounted from this machine."""
    flags, extra = _server_flags(config, options)
    folders = {path: path for path in _local_paths(config)}
    folders["./config"] = CONFIG_FOLDER
    if options.engine == "embedded":
        url = f"http://127.0.0.1:{REST_PORT}/readyz"
        test = ["CMD", "python", "-c", f"import urllib.request; urllib.request.urlopen({url!r})"]
    else:  # its image has no curl; the port opens when every model is available
        test = ["CMD", "bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{GRPC_PORT}"]
    service = {
        "image": options.image or _IMAGE[options.engine],
        "entrypoint": [_COMMAND[options.engine]],
        "command": [_plain(flag) for flag in flags],
        "ports": [f"{GRPC_PORT}:{GRPC_PORT}", f"{REST_PORT}:{REST_PORT}"],
        "volumes": [
            {
                "type": "bind",
                "source": _plain(source),
                "target": _plain(target),
                "read_only": True,
                "bind": {"create_host_path": False},  # a typo must not become an empty folder
            }
            for source, target in folders.items()
        ],
        "healthcheck": {
            "test": test,
            "interval": "10s",
            "timeout": "5s",
            "retries": 3,
            "start_period": f"{_START_SECONDS}s",
        },
        # As process 1, TensorFlow Serving would ignore SIGTERM.
        "init": True,
        "stop_grace_period": f"{_DRAIN_SECONDS[options.engine]}s",
        "restart": "unless-stopped",
        "security_opt": ["no-new-privileges:true"],
    }
    top = {"name": options.name, "services": {"server": service}}
    use = "docker compose up --detach --wait"
    files = {f"config/{name}": content for name, content in {_MODELS_FILE: text, **extra}.items()}
    return {"compose.yaml": _yaml([top], use), **files}


def _plain(text: str) -> str:
    """Compose takes a $ for a variable."""
    return text.replace("$", "$$")


# --- Kubernetes ----------------------------------------------------------------------------------


def kubernetes(config: Config, text: str, options: Options) -> Files:
    """kubernetes.yaml: ConfigMap, Deployment, Services, HorizontalPodAutoscaler, PodDisruptionBudget.

    Local base paths are under one folder, which the claim of `storage_uri` holds.
    """
    flags, extra = _server_flags(config, options)
    name = options.name
    selector = {"app.kubernetes.io/name": name}
    labels = {**selector, "app.kubernetes.io/component": "model-server"}

    def resource(api: str, kind: str, spec: dict[str, Any], suffix: str = "") -> dict[str, Any]:
        metadata = {"name": name + suffix, "labels": labels}
        return {"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec}

    volumes: list[dict[str, Any]] = [{"name": "config", "configMap": {"name": f"{name}-config"}}]
    # The folder, not one file: a subPath would never see the ConfigMap change.
    mounts: list[dict[str, Any]] = [{"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True}]
    if paths := _local_paths(config):
        claim, folder = _claim(options.storage)
        mount = {"name": "models", "mountPath": _mountable(_root(paths)), "readOnly": True}
        mounts.append({**mount, "subPath": folder} if folder else mount)
        volumes.append({"name": "models", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})

    container = {
        "name": "server",
        "image": options.image or _IMAGE[options.engine],
        "command": [_COMMAND[options.engine]],
        # Kubernetes would take $(NAME) for a variable.
        "args": [flag.replace("$(", "$$(") for flag in flags],
        "ports": [
            {"name": "grpc", "containerPort": GRPC_PORT},
            {"name": "http", "containerPort": REST_PORT},
        ],
        **_probes(options.engine),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(_LEAVE_SECONDS)]}}},
        "resources": _resources(options),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": mounts,
    }
    pod = {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": _LEAVE_SECONDS + _DRAIN_SECONDS[options.engine],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": selector},
            }
        ],
        "containers": [container],
        "volumes": volumes,
    }
    deployment = {  # without `replicas`: each apply would undo the autoscaler's
        "selector": {"matchLabels": selector},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    ports = [
        {"name": "grpc", "port": GRPC_PORT, "targetPort": "grpc", "appProtocol": "kubernetes.io/h2c"},
        {"name": "http", "port": REST_PORT, "targetPort": "http", "appProtocol": "http"},
    ]
    autoscaler = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "minReplicas": _REPLICAS[0],
        "maxReplicas": _REPLICAS[1],
        "metrics": [
            {
                "type": "Resource",
                "resource": {
                    "name": "cpu",
                    "target": {"type": "Utilization", "averageUtilization": _CPU_PERCENT},
                },
            }
        ],
    }
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{name}-config", "labels": labels},
        "data": {_MODELS_FILE: text, **extra},
    }
    resources = [
        config_map,
        resource("apps/v1", "Deployment", deployment),
        resource("v1", "Service", {"selector": selector, "ports": ports}),
        # A gRPC client keeps one connection: it finds all the replicas, to take turns, only by this one.
        resource("v1", "Service", {"clusterIP": "None", "selector": selector, "ports": ports}, "-headless"),
        resource("autoscaling/v2", "HorizontalPodAutoscaler", autoscaler),
        resource(
            "policy/v1",
            "PodDisruptionBudget",
            {"maxUnavailable": 1, "selector": {"matchLabels": selector}},
        ),
    ]
    return {"kubernetes.yaml": _yaml(resources, "kubectl apply --filename=kubernetes.yaml")}


def _probes(engine: str) -> dict[str, Any]:
    """TensorFlow Serving's port opens when every model is available; the embedded server can be asked.

    Not /v1/models/NAME: the pods would be ended when that model leaves the config.
    """

    def probe(path: str, period: int, failures: int) -> dict[str, Any]:
        by_http = {"httpGet": {"path": path, "port": "http"}}
        ask = by_http if engine == "embedded" else {"tcpSocket": {"port": "grpc"}}
        return {**ask, "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": failures}

    return {
        "startupProbe": probe("/readyz", 5, _START_SECONDS // 5),
        "readinessProbe": probe("/readyz", 5, 3),
        "livenessProbe": probe("/healthz", 20, 6),
    }


def _resources(options: Options) -> dict[str, Any]:
    # No limit of CPU: it would stop a replica in the middle of a request, with the CPU idle.
    return {"requests": {"cpu": options.cpu, "memory": options.memory}, "limits": {"memory": options.memory}}


# --- KServe --------------------------------------------------------------------------------------


def kserve(config: Config, _: str, options: Options) -> Files:
    """kserve.yaml: an InferenceService for each model, on KServe's own TensorFlow runtime.

    That runtime is TensorFlow Serving with one model, the newest version, and no config file.
    """
    if files := _FILE_FLAGS & {flag.removeprefix("--").partition("=")[0] for flag in options.flags}:
        raise DeployError(f"--{min(files)}: KServe's runtime mounts no files; use --target=kubernetes")
    local = _local_paths(config)
    root = _root(local) if local else "/"
    resources = _resources(options)
    # The runtime has a limit of its own, 1 CPU, and a replica may not ask for more than that.
    resources["limits"]["cpu"] = options.cpu
    services: dict[str, dict[str, Any]] = {}
    for model in config.model_config_list.config:
        policy = model.model_version_policy
        if policy.WhichOneof("policy_choice") not in (None, "latest") or policy.latest.num_versions > 1:
            raise DeployError(_only_newest(model.name, "a model_version_policy"))
        if model.version_labels:
            raise DeployError(_only_newest(model.name, "version_labels"))
        name = re.sub("[^a-z0-9]+", "-", model.name.lower()).strip("-")
        if not _NAME.fullmatch(name):
            raise DeployError(
                f"model {model.name!r} makes no name for an InferenceService, which has {_NAME_RULE}"
            )
        if name in services:
            raise DeployError(f"model {model.name!r} and another one both make the InferenceService {name}")
        path = _local(model.base_path)
        uri = model.base_path if path is None else f"{options.storage}/{os.path.relpath(path, root)}"
        predictor: dict[str, Any] = {
            "modelFormat": {"name": "tensorflow"},
            "runtime": "kserve-tensorflow-serving",
            "protocolVersion": options.protocol,
            "storageUri": uri,
            # After the runtime's own, which say --model_name=<the InferenceService's>: the last one counts.
            "args": [f"--model_name={model.name}", *options.flags],
            "resources": resources,
        }
        if options.engine == "embedded":
            predictor["command"] = [_COMMAND["embedded"]]
        if options.image or options.engine == "embedded":
            predictor["image"] = options.image or _IMAGE["embedded"]
        if options.protocol == "grpc-v1":  # without it, KServe forwards to the REST port; it wants this name
            predictor["ports"] = [{"name": "h2c", "containerPort": 9000, "protocol": "TCP"}]
        low, high = _REPLICAS
        services[name] = {
            "apiVersion": "serving.kserve.io/v1beta1",
            "kind": "InferenceService",
            "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": options.name}},
            "spec": {"predictor": {"minReplicas": low, "maxReplicas": high, "model": predictor}},
        }
    return {"kserve.yaml": _yaml(list(services.values()), "kubectl apply --filename=kserve.yaml")}


def _only_newest(model: str, what: str) -> str:
    return (
        f"model {model!r} has {what}, and KServe's TensorFlow runtime serves the newest version only; "
        "use --target=kubernetes"
    )


TARGETS: dict[str, Callable[[Config, str, Options], Files]] = {
    "compose": compose,
    "kubernetes": kubernetes,
    "kserve": kserve,
}


# --- Parts ---------------------------------------------------------------------------------------


def _server_flags(config: Config, options: Options) -> tuple[list[str], Files]:
    """The command line in the container, and the files beside the model config that it names."""
    flags = [
        f"--port={GRPC_PORT}",
        f"--rest_api_port={REST_PORT}",
        f"--model_config_file={CONFIG_FOLDER}/{_MODELS_FILE}",
        f"--model_config_file_poll_wait_seconds={_POLL_SECONDS}",
    ]
    if any(model.version_labels for model in config.model_config_list.config):
        # Without it, labels in the file stop TensorFlow Serving from starting: no version is loaded yet.
        flags.append("--allow_version_labels_for_unavailable_models")
    files = {}
    for flag in options.flags:
        name, _, value = flag.removeprefix("--").partition("=")
        if name in _FILE_FLAGS:
            file = f"{name.removesuffix('_file')}.config"
            files[file] = Path(value).read_text(encoding="utf-8")
            flag = f"--{name}={CONFIG_FOLDER}/{file}"
        flags.append(flag)
    return flags, files


def _local(base_path: str) -> str | None:
    """A base path on a file system, tidied; None for any other URI."""
    path = base_path.removeprefix("file://")
    return None if "://" in path else os.path.normpath(path)


def _local_paths(config: Config) -> list[str]:
    """Each once, in the config's order."""
    paths = [_local(model.base_path) for model in config.model_config_list.config]
    return list(dict.fromkeys(path for path in paths if path is not None))


def _root(paths: Sequence[str]) -> str:
    """The folder that all of them are in."""
    return os.path.commonpath([os.path.dirname(path) for path in paths])


def _mountable(root: str) -> str:
    if any(f"{path}/".startswith(root.rstrip("/") + "/") for path in _SYSTEM):
        raise DeployError(
            f"the base paths' common folder is {root}, where a volume would hide the image's own files; "
            "move all models under one folder, such as /models"
        )
    return root


def _claim(uri: str) -> tuple[str, str]:
    """(claim, folder in it) of pvc://claim/folder."""
    match = _CLAIM.fullmatch(uri)
    if match is None:
        raise DeployError(
            f"--storage_uri={uri}: expected pvc://claim or pvc://claim/folder for local base paths (models "
            "in a bucket have its URI as their base_path)"
        )
    return match[1], (match[3] or "").strip("/")


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as they are, lists indented under their key, no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def _yaml(documents: list[dict[str, Any]], use: str) -> str:
    text = yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000, default_flow_style=False
    )
    return f"# Rendered by serving.deploy_main. Use: {use}\n{text}"
