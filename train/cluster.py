"""Training on several machines of a Kubernetes cluster: the manifests that run `train.main` on each.

Every worker runs the same command; it finds the others by TF_CONFIG. An Indexed Job gives each pod a number
and a host name that stays; the training operator's TFJob makes TF_CONFIG itself. What happens when a worker
ends follows the trainer's exit statuses: a mistake ends the job, what a restart mends is restarted.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from zoo.errors import UserError

PORT = 2222
STORAGE = "/storage"  # where the claim is mounted

# To save a checkpoint after SIGTERM: the steps of one call of the compiled loop, and the disk.
_GRACE_SECONDS = 120
# A mistake of the user's (2) or an extra that is not installed (1): the next try would end the same way.
_MISTAKES = [1, 2]
# Stopped by SIGINT or SIGTERM with everything saved (130, 143), or another worker is gone (138): the pod that
# was the cause has a status of its own.
_SAVED = [130, 138, 143]
_TRIES = 6  # for everything else: a crash, a machine without memory

# Kubernetes allows 63 for a host name, and "-<index>" is appended.
_NAME = re.compile(r"(?=.{1,45}\Z)[a-z]([-a-z0-9]*[a-z0-9])?")
_QUANTITY = re.compile(r"[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?")
_CLAIM = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")


@dataclasses.dataclass(frozen=True)
class Options:
    """One training run on a cluster."""

    name: str  # of every object
    image: str  # with the extra `train`; serving/deploy/Dockerfile says how to build it
    storage: str  # a claim that every worker mounts at STORAGE: ReadWriteMany
    arguments: Sequence[str]  # of train.main, but for --strategy
    workers: int = 2
    gpus: int = 0  # of each worker
    cpu: str = "4"  # of each worker, asked for
    memory: str = "16Gi"  # of each worker, at most

    def validate(self) -> None:
        """Raises `UserError` for the first value that cannot work."""
        if not _NAME.fullmatch(self.name):
            raise UserError(
                f"--name={self.name}: at most 45 of a-z, 0-9 and -, from a letter to a letter or digit,"
                " are expected"
            )
        if not self.image or re.search(r"\s", self.image):
            raise UserError(f"--image={self.image}: an image's name without spaces is expected")
        if not _CLAIM.fullmatch(self.storage):
            raise UserError(f"--storage={self.storage}: the name of a PersistentVolumeClaim is expected")
        for flag, value in (("cpu", self.cpu), ("memory", self.memory)):
            if not _QUANTITY.fullmatch(value):
                raise UserError(f"--{flag}={value}: a quantity is expected, such as 500m or 2Gi")


def indexed_job(options: Options) -> str:
    """A headless Service and an Indexed Job: nothing but Kubernetes (1.31 or later) is needed."""
    hosts = [f"{options.name}-{i}.{options.name}:{PORT}" for i in range(options.workers)]
    cluster = json.dumps({"cluster": {"worker": hosts}, "task": {"type": "worker", "index": "INDEX"}})
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    environment: list[dict[str, Any]] = [
        {"name": "WORKER_INDEX", "valueFrom": {"fieldRef": {"fieldPath": index}}},
        # Kubernetes puts the number in: $(NAME) is a variable that stands before in this list.
        {"name": "TF_CONFIG", "value": cluster.replace('"INDEX"', "$(WORKER_INDEX)")},
    ]
    labels = _labels(options)
    pod = _pod(options, "trainer", environment)
    pod["restartPolicy"] = "Never"  # a failure policy asks for it; the Job makes new pods
    pod["subdomain"] = options.name
    rules: list[dict[str, Any]] = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"operator": "In", "values": _MISTAKES}},
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": _SAVED}},
    ]
    job = {
        "completionMode": "Indexed",
        "completions": options.workers,
        "parallelism": options.workers,
        "backoffLimit": _TRIES,
        "podFailurePolicy": {"rules": rules},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }
    service = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,  # the workers wait for each other before any is of use
        "selector": labels,
        "ports": [{"name": "grpc", "port": PORT}],
    }
    return _yaml(
        [
            _object("v1", "Service", options, service),
            _object("batch/v1", "Job", options, job),
        ]
    )


def training_operator(options: Options) -> str:
    """A TFJob of the Kubeflow training operator (v1), which sets TF_CONFIG and makes the services."""
    # The operator looks for a container and a port of these names.
    pod = _pod(options, "tensorflow", [])
    pod["containers"][0]["ports"] = [{"name": "tfjob-port", "containerPort": PORT}]
    # A sidecar between the workers would answer in their place.
    metadata = {"labels": _labels(options), "annotations": {"sidecar.istio.io/inject": "false"}}
    worker = {
        "replicas": options.workers,
        "restartPolicy": "ExitCode",  # above 127: again; else the job has failed
        "template": {"metadata": metadata, "spec": pod},
    }
    spec = {
        "runPolicy": {"cleanPodPolicy": "Running", "backoffLimit": _TRIES},
        "tfReplicaSpecs": {"Worker": worker},
    }
    return _yaml([_object("kubeflow.org/v1", "TFJob", options, spec)])


TARGETS: dict[str, Callable[[Options], str]] = {
    "indexed_job": indexed_job,
    "training_operator": training_operator,
}


def _labels(options: Options) -> dict[str, str]:
    return {"app.kubernetes.io/name": options.name, "app.kubernetes.io/component": "trainer"}


def _object(api: str, kind: str, options: Options, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": options.name, "labels": _labels(options)}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec}


def _pod(options: Options, container: str, environment: list[dict[str, Any]]) -> dict[str, Any]:
    limits: dict[str, Any] = {"memory": options.memory}
    volumes: list[dict[str, Any]] = [
        {"name": "storage", "persistentVolumeClaim": {"claimName": options.storage}}
    ]
    mounts = [{"name": "storage", "mountPath": STORAGE}]
    if options.gpus:
        limits["nvidia.com/gpu"] = options.gpus
        # NCCL's; a container has 64 MiB otherwise.
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    trainer = {
        "name": container,
        "image": options.image,
        "command": ["atelier-train"],
        # Kubernetes would take $(NAME) for a variable.
        "args": [a.replace("$(", "$$(") for a in [*options.arguments, "--strategy=multi_worker"]],
        "env": environment,
        "ports": [{"name": "grpc", "containerPort": PORT}],
        "resources": {"requests": {"cpu": options.cpu, "memory": options.memory}, "limits": limits},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": mounts,
    }
    return {
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "fsGroup": 1000,  # the claim is written to
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "containers": [trainer],
        "volumes": volumes,
    }


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def _yaml(documents: list[dict[str, Any]]) -> str:
    text = yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)
    return f"# Rendered by train.cluster_main. Use: kubectl apply --filename=<this file>\n{text}"
