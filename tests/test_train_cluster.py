"""What cluster_main writes: judged by Kubernetes' published schemas, and by what the trainer makes of it.

The training operator publishes a schema too, but no package brings it: TFJOB below keeps, of what
https://kubeflow.org/docs/components/training/tftraining says, the parts in use, and refuses every other key.
Nothing here was applied to a cluster.
"""

import pathlib
import re
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from binaries import run_main

from train import cluster, strategy

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The oldest in which failure policies are stable, and the newest that the schemas' package has.
KUBERNETES = ("1.31", "1.37")
FLAGS = ["--config=gan_fashion", "--image=mirror.example:5000/train:1", "--storage=claim"]
OPTIONS = cluster.Options("train-gan", "train:1", "claim", ["--config=gan_fashion"], workers=3, gpus=8)


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


METADATA = _object(
    [],
    name={"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 50},
    labels={"type": "object"},
    annotations={"type": "object"},
)
TFJOB = _object(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "kubeflow.org/v1"},
    kind={"const": "TFJob"},
    metadata=METADATA,
    spec=_object(
        ["tfReplicaSpecs"],
        runPolicy=_object(
            [],
            cleanPodPolicy={"enum": ["Running", "All", "None"]},
            backoffLimit={"type": "integer", "minimum": 0},
        ),
        tfReplicaSpecs=_object(
            ["Worker"],
            Worker=_object(
                ["replicas", "template"],
                replicas={"type": "integer", "minimum": 1},
                restartPolicy={"enum": ["Always", "OnFailure", "Never", "ExitCode"]},
                template=_object(["spec"], metadata=METADATA, spec={"type": "object"}),
            ),
        ),
    ),
)


def _documents(target: str, options: cluster.Options = OPTIONS) -> dict[str, dict[str, Any]]:
    """Kind -> object."""
    return {x["kind"]: x for x in yaml.safe_load_all(cluster.TARGETS[target](options))}


def _pod(target: str, options: cluster.Options = OPTIONS) -> dict[str, Any]:
    kinds = _documents(target, options)
    if target == "indexed_job":
        return kinds["Job"]["spec"]["template"]["spec"]
    return kinds["TFJob"]["spec"]["tfReplicaSpecs"]["Worker"]["template"]["spec"]


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("gpus", [0, 8])
def test_kubernetes_schemas_accept_every_object(version, gpus):
    options = cluster.Options("a", "b", "c", [], workers=2, gpus=gpus)
    kinds = _documents("indexed_job", options)
    assert sorted(kinds) == ["Job", "Service"]
    for document in kinds.values():
        kubernetes_validate.validate(document, version, strict=True)
    # The operator's pods are Kubernetes'.
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}
    kubernetes_validate.validate(pod | {"spec": _pod("training_operator", options)}, version, strict=True)


def test_the_tfjob_is_what_the_operator_documents():
    (job,) = _documents("training_operator").values()
    jsonschema.Draft202012Validator(TFJOB).validate(job)
    (container,) = _pod("training_operator")["containers"]
    # Names that the operator looks for.
    assert container["name"] == "tensorflow"
    assert container["ports"] == [{"name": "tfjob-port", "containerPort": 2222}]
    assert "TF_CONFIG" not in {variable["name"] for variable in container["env"]}  # it sets this itself


@pytest.mark.parametrize("index", range(3))
def test_each_pod_s_tf_config_is_one_that_the_trainer_takes(index, monkeypatch):
    (container,) = _pod("indexed_job")["containers"]
    values = {}
    for variable in container["env"]:  # as Kubernetes does: a variable may use those before it
        if "valueFrom" in variable:
            path = variable["valueFrom"]["fieldRef"]["fieldPath"]
            assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
            values[variable["name"]] = str(index)
        else:
            values[variable["name"]] = re.sub(
                r"\$\((\w+)\)", lambda match: values[match[1]], variable["value"]
            )
    monkeypatch.setenv("TF_CONFIG", values["TF_CONFIG"])
    read = strategy._tf_config()
    strategy._check_cluster(read)
    assert read["task"] == {"type": "worker", "index": index}
    assert read["cluster"]["worker"] == [f"train-gan-{i}.train-gan:2222" for i in range(3)]


def test_the_workers_find_each_other_by_the_names_in_tf_config():
    kinds = _documents("indexed_job")
    service, job = kinds["Service"], kinds["Job"]["spec"]
    # A pod's host name is <job>-<index>.<subdomain>, which is the headless service's name.
    assert service["metadata"]["name"] == kinds["Job"]["metadata"]["name"] == "train-gan"
    assert job["template"]["spec"]["subdomain"] == "train-gan"
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert service["spec"]["selector"].items() <= job["template"]["metadata"]["labels"].items()
    assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", 3, 3)


def test_what_happens_to_a_worker_follows_the_trainer_s_exit_statuses():
    job = _documents("indexed_job")["Job"]["spec"]
    rules = job["podFailurePolicy"]["rules"]
    assert rules[0] == {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    by_status = {s: rule["action"] for rule in rules[1:] for s in rule["onExitCodes"]["values"]}
    # Mistakes end the job; SIGTERM and Ctrl-C, with everything saved, and a lost worker cost no try.
    assert by_status == {1: "FailJob", 2: "FailJob", 130: "Ignore", 138: "Ignore", 143: "Ignore"}
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # a failure policy demands it
    # The operator: up to 127 permanent, above it again.
    worker = _documents("training_operator")["TFJob"]["spec"]["tfReplicaSpecs"]["Worker"]
    assert worker["restartPolicy"] == "ExitCode"


@pytest.mark.parametrize("target", sorted(cluster.TARGETS))
def test_a_worker_can_save_write_and_use_its_gpus(target):
    pod = _pod(target)
    (container,) = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] >= 60
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 8
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes[mounted["/storage"]]["persistentVolumeClaim"] == {"claimName": "claim"}
    assert volumes[mounted["/dev/shm"]]["emptyDir"] == {"medium": "Memory"}
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["fsGroup"] == pod["securityContext"]["runAsUser"]


def test_the_binary_renders_a_preset_with_the_trainer_s_own_flags():
    done = run_main("train.cluster_main", *FLAGS, "--workers=4", "--gpus=8", "--", "--config.steps=20000")
    assert done.returncode == 0, done.stderr
    job = list(yaml.safe_load_all(done.stdout))[1]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert job["metadata"]["name"] == "train-gan-fashion"
    assert container["command"] == ["atelier-train"]
    assert '"atelier-train=train.main:run"' in (ROOT / "setup.py").read_text()
    assert container["args"] == [
        "--config=gan_fashion",
        "--workdir=/storage/runs/gan_fashion",
        "--data_dir=/storage/data",
        "--config.steps=20000",
        "--strategy=multi_worker",
    ]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--workers=3"], "config.data.batch_size=64 cannot be shared by 3 replicas"),
        (["--", "--config.stepz=3"], "config.steps (int)"),
    ],
)
def test_a_mistake_is_told_here_and_not_by_the_cluster(flags, told):
    done = run_main("train.cluster_main", *FLAGS, *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"name": "Train"}, "--name=Train"),
        ({"image": "a b"}, "--image=a b"),
        ({"storage": "pvc://x"}, "--storage=pvc://x"),
        ({"memory": "lots"}, "--memory=lots"),
    ],
)
def test_options_that_no_cluster_takes(changes, told):
    values = {"name": "a", "image": "b", "storage": "c", "arguments": []} | changes
    with pytest.raises(cluster.UserError, match=told):
        cluster.Options(**values).validate()


def test_the_image_can_hold_the_trainer():
    text = (ROOT / "serving" / "deploy" / "Dockerfile").read_text()
    assert "ARG EXTRA=serve" in text and '"/src[$EXTRA]"' in text
    ignored = (ROOT / "serving" / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [w for line in text.splitlines() if line.startswith("COPY ") for w in line.split()[1:-1]]
    assert {f"!{name}" for name in copied} <= set(ignored)  # else the build does not find it
