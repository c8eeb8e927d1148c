"""The whole line in one command: `python -m train.pipeline_main --config=gan_fashion --base=<dir>`.

data      load the data set, take its files' digest
train     into <base>/runs/<name>/<digest of configuration, data and code>/
export    a candidate, <base>/candidates/<name>/<version>/, that no server reads
evaluate  judge the candidate itself (what ships is what is judged) and bless it, or not
push      validate it in a real server, then publish <base>/models/<name>/<version>/

The same command again skips what has not changed and goes on where it was stopped. A stage that says no ends
the line with its own words and exit status (3: not blessed); what is served stays as it was.
"""

import json
import os
import pathlib
import sys
import urllib.parse
from typing import Any

from absl import flags

from train import fingerprint, line
from zoo import binary, blessing, publish
from zoo.errors import UserError

_CONFIG = flags.DEFINE_string(
    "config", None, "Preset; --config.<field>=<value> changes any of its fields.", required=True
)
_BASE = flags.DEFINE_string(
    "base", None, "Folder of the line: runs/, candidates/, models/ (what is served).", required=True
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder with the data set's original files.")
_STRATEGY = flags.DEFINE_string("strategy", "auto", "The trainer's: auto, one_device or mirrored.")
_GATE = flags.DEFINE_multi_string(
    "gate", [], "A gate of train.evaluate_main, for example 'accuracy >= last - 0.005'; may be repeated."
)
_FORCE = flags.DEFINE_boolean("force", False, "Do every stage again, in a new run directory.")

_NAME_DIGITS = 12  # of a digest, in a run directory's name
_RUN = ("config.json", "card.json", "checkpoints")  # what an export is made of

# `--config.<field>=<value>` as given: reading them needs TensorFlow, which a rerun must not load.
_overrides: list[str] = []


def main(_: list[str]) -> None:
    if "worker" in os.environ.get("TF_CONFIG", ""):
        raise UserError(
            "the line runs on one machine, and TF_CONFIG names several: train there with train.main, then"
            " export, evaluate and push (BUILD.md, Past one machine)"
        )
    base = pathlib.Path(_BASE.value).expanduser().absolute()
    named = [text.partition("=")[2] for text in _overrides if text.startswith("--config.name=")]
    memory = base / "pipeline" / urllib.parse.quote(named[-1] if named else _CONFIG.value, safe="")
    with line.locked(memory.with_name(f"{memory.name}.lock"), f"{_CONFIG.value} in {_BASE.value}") as lock:
        stages = line.Line(memory.with_name(f"{memory.name}.json"), lock, _FORCE.value)
        try:
            served = _run(stages, base, memory)
        except line.Stopped as end:
            print(f"\n{stages.table()}", flush=True)
            sys.exit(end.status)
        except BaseException:
            print(f"\n{stages.table()}", flush=True)
            raise
    print(f"\n{stages.table()}\n\nserve it: python -m serving.server_main --port=8500 {served}")


def _run(stages: line.Line, base: pathlib.Path, memory: pathlib.Path) -> str:
    """All stages; returns the server's flags for what they made."""
    files = fingerprint.Files(memory.with_name(f"{memory.name}.files.json"))
    preset = [f"--config={_CONFIG.value}", *_overrides]
    where = [] if _DATA_DIR.value is None else [f"--data_dir={_DATA_DIR.value}"]

    def shown(path: pathlib.Path) -> str:
        return str(path.relative_to(base))

    # 1. Data. The description names the files, so that their digest can be taken without loading them.
    description = memory.with_name(f"{memory.name}.data.json")

    def data_digest(path: pathlib.Path) -> str:
        return fingerprint.of([found, files.digest(found["paths"])]) if (found := _read(path)) else ""

    stages.stage(
        "data",
        {
            "flags": fingerprint.of([preset, where, os.getcwd()]),
            "code": fingerprint.code("train.data_main", f"train.presets.{_CONFIG.value}"),
        },
        ["train.data_main", *preset, *where, f"--output={description}"],
        output=lambda: description,
        digest=data_digest,
        what=lambda path: _read(path)["data"],
    )
    described = _read(description)
    config, name = described["config"], described["config"]["name"]
    family = f"zoo.{config['family']}"
    data = files.digest(described["paths"])

    # 2. Train. The trainer resumes a run of the same configuration, data and code; others stay as they are.
    inputs = {
        "configuration": fingerprint.of(config),
        "data": data,
        "code": fingerprint.code("train.main", family),
    }
    workdir = pathlib.Path(stages.planned("train", inputs) or _new_run(base / "runs" / name, inputs))
    trained = stages.stage(
        "train",
        inputs,
        ["train.main", *preset, *where, f"--workdir={workdir}", f"--strategy={_STRATEGY.value}"],
        output=lambda: workdir,
        digest=lambda path: files.digest([path / part for part in _RUN]),
        what=lambda path: f"{shown(path)}: {_learnt(path)}",
        plan=str(workdir),
    )

    # 3. Export a candidate: what is judged next is what would ship.
    candidates = base / "candidates"
    exported = stages.stage(
        "export",
        {"run": trained.digest, "code": fingerprint.code("serving.export_main", family)},
        ["serving.export_main", f"--workdir={trained.output}", f"--base_dir={candidates}"],
        output=lambda: candidates / name / str(publish.versions(candidates / name)[-1]),
        digest=_export_digest,
        what=lambda path: f"{shown(path)}: {blessing.megabytes(path):.1f} MB",
    )

    # 4. Evaluate, and bless or not.
    gates = [f"--gate={gate}" for gate in _GATE.value]
    models = base / "models"
    judges = pathlib.Path(__file__).parent / "metrics" / "judges"
    candidate = pathlib.Path(exported.output)
    last = blessing.last_blessed(models / name, besides=exported.digest)
    stages.stage(
        "evaluate",
        {
            "candidate": exported.digest,
            "data": data,
            "gates": fingerprint.of([*gates, fingerprint.code(f"train.presets.{name}")]),
            "last": last.digest if last else "",
            "code": fingerprint.of([fingerprint.code("train.evaluate_main", family), files.digest([judges])]),
        },
        ["train.evaluate_main", f"--export={candidate}", *where, f"--base_dir={models}", *gates],
        output=lambda: candidate / blessing.FILE,
        digest=lambda path: files.digest([path]) if path.is_file() else "",
        what=lambda path: _judgement(candidate),
    )

    def aside(version: pathlib.Path) -> pathlib.Path:
        return publish.aside(version.parent, int(version.name))

    # 5. Validate and push. Whatever changed in the code since, the same export is not pushed twice.
    stages.stage(
        "push",
        {"candidate": exported.digest},
        ["serving.push_main", "push", str(candidate), f"--base_dir={models}"],
        output=lambda: _pushed(models / name, exported.digest),
        digest=lambda path: _export_digest(path if path.exists() else aside(path)),
        what=lambda path: shown(path) + ("" if path.exists() else " was rolled back, and stays so"),
    )
    return f"--model_config_file={models / 'models.config'} --model_config_file_poll_wait_seconds=1"


def _new_run(parent: pathlib.Path, inputs: dict[str, str]) -> pathlib.Path:
    """The run directory of these inputs; with --force one that is not there yet."""
    workdir = parent / fingerprint.of(inputs)[:_NAME_DIGITS]
    count = 1
    while _FORCE.value and workdir.exists():
        count += 1
        workdir = parent / f"{fingerprint.of(inputs)[:_NAME_DIGITS]}-{count}"
    return workdir


def _read(path: pathlib.Path) -> Any:
    """The value of a JSON file; None if it is gone or damaged."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _learnt(workdir: pathlib.Path) -> str:
    """Steps, and what the trainer measured on the held-out split at the end."""
    logged = [json.loads(text) for text in (workdir / "metrics.jsonl").read_text().splitlines()]
    measured: dict[str, Any] = {}
    for values in logged:
        measured |= {k.removeprefix("eval/"): v for k, v in values.items() if k.startswith("eval/")}
    figures = "".join(f", {key} {value:.4g}" for key, value in measured.items())
    return f"{logged[-1]['step']} steps{figures}"


def _export_digest(export: pathlib.Path) -> str:
    return blessing.digest(export) if (export / "saved_model.pb").is_file() else ""


def _judgement(export: pathlib.Path) -> str:
    found = blessing.read(export)
    if found is None:
        return "not judged"
    told = [f"{v.gate}: {'-' if v.value is None else f'{v.value:.4g}'}" for v in found.verdicts]
    failed = [v.reason for v in found.verdicts if not v.passed]
    return "; ".join(["blessed", *told] if found.blessed else ["not blessed", *failed])


def _pushed(parent: pathlib.Path, digest: str) -> pathlib.Path:
    """The newest version with these files."""
    for version in reversed(publish.versions(parent)):
        if _export_digest(parent / str(version)) == digest:
            return parent / str(version)
    raise UserError(f"{parent} has no version with the digest {digest}, though it was pushed")


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser; `--config.<field>=<value>` is kept for the stages that read configurations."""
    own = []
    for given in argv:
        if given.startswith(("--config.", "-config.")):
            if "=" not in given:
                raise UserError(f"{given}: --config.<field>=<value> is expected")
            _overrides.append(f"--{given.lstrip('-')}")
        else:
            own.append(given)
    return binary.parse_flags(own)


def run() -> None:
    """The console script."""
    try:
        binary.run(main, parse_flags)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
