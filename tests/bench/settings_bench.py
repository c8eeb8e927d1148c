"""The trainer's speed switches, tried on one preset of each network: the fastest is to be the default.

    make bench-settings DATA_DIR=<dir>
    (or: python tests/bench/settings_bench.py --data_dir=<dir> [--presets=cnn_mnist])

Each setting is a run of `python -m train.main` that is ended after a few lines of its log, of about two
seconds' steps each, all in one call of the compiled loop but in the last setting; the figure is the median
of `rate/steps_per_second` without the first line, which compiles. Wall time of all cores: nothing else
should run; the preset as it stands is timed before and after the others, and where the two disagree
something did: its row is not kept. Presets that are named replace their own rows.

A preset whose data set is not in the folder is left out; so is a setting that its family refuses. Writes
`tests/bench/results/settings.json` and the table in BUILD.md.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from typing import Any

from train import card, presets
from zoo.files import atomic_write, write_json

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = pathlib.Path(__file__).parent / "results" / "settings.json"
BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"
SETTINGS = {
    "as it stands": [],
    "XLA": ["--config.xla=true"],
    "bfloat16": ["--config.mixed_precision=bfloat16"],
    "bfloat16, XLA": ["--config.mixed_precision=bfloat16", "--config.xla=true"],
    "one step a call": ["--config.steps_per_execution=1"],
}
PRESETS = (  # the others have the network of one of these
    "cnn_mnist",
    "cnn_paintings",
    "autoencoder_fashion",
    "autoencoder_paintings",
    "vae_mnist",
    "vae_paintings",
    "gan_mnist",
    "gan_paintings",
    "rnn_shakespeare",
    "rnn_chorales",
    "stylizer_paintings",
)
LINES = 3  # of the log, the first of which does not count
LINE_SECONDS = 2.0  # about so long is a line to take
PATIENCE = 150.0  # seconds for a run
CALM = 0.15  # by so much may the first figure and the last differ
ALIKE = 0.97  # a setting that reaches this share of the fastest one's speed is as fast


class Refused(Exception):
    """The trainer does not take this setting, or does not have the data."""


def rates(preset: str, setting: list[str], given: list[str], steps: int) -> list[dict[str, float]]:
    """Lines of the trainer's log, one every `steps` steps; two at least.

    Raises:
        Refused: with what it said, or that it took too long.
    """
    rarely = [f"--config.{name}_every={1000 * steps}" for name in ("eval", "preview", "checkpoint")]
    call = [f"--config.steps_per_execution={steps}"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "train.main", f"--config={preset}", f"--workdir={folder}/run"]
        command += [*given, f"--config.log_every={steps}", *rarely, *call, *setting]
        log = pathlib.Path(folder, "run", "metrics.jsonl")
        with (
            open(f"{folder}/said", "w+") as said,
            subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said) as run,
        ):
            began, lines = time.monotonic(), []
            while len(lines) < LINES and run.poll() is None and time.monotonic() - began < PATIENCE:
                time.sleep(0.2)
                lines = log.read_text().splitlines() if log.exists() else []
            ended = run.poll()
            run.kill()
            said.seek(0)
            if ended:
                raise Refused(said.read().strip().splitlines()[-1])
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    if len(whole) < 2:
        raise Refused(f"no {2 * steps} steps in {PATIENCE:.0f} s")
    return whole


def measure(preset: str, given: list[str]) -> dict[str, Any]:
    """Steps per second by setting, and the share of time that steps wait for their data.

    Raises:
        Refused: the preset cannot be trained here, or something else ran beside it.
    """
    found: dict[str, Any] = {}
    trial = rates(preset, [], given, 2)
    steps = max(2, round(LINE_SECONDS * max(line["rate/steps_per_second"] for line in trial)))
    for name, setting in SETTINGS.items():
        try:
            lines = rates(preset, setting, given, steps)
        except Refused as refused:
            if not setting:
                raise
            print(f"{preset}, {name}: {refused}", file=sys.stderr)
            continue
        found[name] = _median(lines, "rate/steps_per_second")
        if not setting:
            waiting = _median(lines, "rate/input_wait")
        print(f"{preset}, {name}: {found[name]:.2f} steps/s", file=sys.stderr)
    first = found["as it stands"]
    last = _median(rates(preset, [], given, steps), "rate/steps_per_second")
    if abs(last - first) > CALM * first:
        raise Refused(f"it made {first:.2f} steps/s at first and {last:.2f} at last: run it again, alone")
    found["as it stands"] = (first + last) / 2
    return {"steps_per_second": found, "waiting": waiting, "config": _configured(preset)}


def _median(lines: list[dict[str, float]], what: str) -> float:
    return statistics.median(line[what] for line in lines[1:])


def _configured(preset: str) -> str:
    config = presets.load(preset)
    return f"{config.mixed_precision}{', XLA' if config.xla else ''}"


def table(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown: each setting's speed over that of the preset as it stands."""
    names = list(SETTINGS)[1:]
    lines = [
        "| preset | as it stands | steps/s | waits for data | " + " | ".join(names) + " |",
        "|" + "---|" * (4 + len(names)),
    ]
    for preset, row in rows.items():
        speeds = row["steps_per_second"]
        base = speeds["as it stands"]
        cells = [f"{speeds[n] / base:.2f} x" if n in speeds else "-" for n in names]
        first = [f"`{preset}`", row["config"], f"{base:.3g}", f"{row['waiting']:.0%}"]
        lines.append(f"| {' | '.join(first + cells)} |")
    return lines


def summary(rows: dict[str, dict[str, Any]]) -> str:
    beaten = {}
    for preset, row in rows.items():
        speeds = row["steps_per_second"]
        best = max(speeds, key=lambda name: speeds[name])
        if speeds["as it stands"] < ALIKE * speeds[best]:
            beaten[preset] = f"{preset} ({best}: {speeds[best] / speeds['as it stands']:.2f} x)"
    told = ", ".join(beaten.values()) or "none"
    return (
        f"Speed switches (XLA, bfloat16, steps per call) on {len(rows)} presets, {os.cpu_count()} cores: the"
        f" preset's own setting is the fastest, or within {1 - ALIKE:.0%} of it, in"
        f" {len(rows) - len(beaten)}; beaten: {told}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", required=True, help="as for train.main")
    parser.add_argument("--presets", default=",".join(PRESETS), help="which, by commas")
    arguments = parser.parse_args()
    data_dir = pathlib.Path(arguments.data_dir).resolve()
    if not arguments.data_dir or not data_dir.is_dir():
        sys.exit(f"error: --data_dir={arguments.data_dir}: the folder with the data sets is expected")
    rows: dict[str, dict[str, Any]] = (
        json.loads(RESULTS.read_text())["presets"] if RESULTS.exists() else {}
    )
    for preset in arguments.presets.split(","):
        given, model = [f"--data_dir={data_dir}"], presets.load(preset).model
        if hasattr(model, "style_dir"):
            given.append(f"--config.model.style_dir={data_dir / 'style_images'}")
        if getattr(model, "vgg19_weights", ""):
            weights = sorted((data_dir / "vgg19").glob("*.h5"))
            given += [f"--config.model.vgg19_weights={weights[0]}"] if weights else []
        try:
            rows[preset] = measure(preset, given)
        except Refused as refused:
            print(f"{preset} is left out: {refused}", file=sys.stderr)
    print("\n".join(table(rows)))
    print(summary(rows))
    result = {
        "what": "steps per second of train.main by setting; all cores, wall time",
        "summary": summary(rows),
        "presets": rows,
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("keras", "tensorflow")},
        },
        "hardware": card.hardware(),
        "command": "make bench-settings DATA_DIR=<dir>",
    }
    write_json(RESULTS, result)
    build = ROOT / "BUILD.md"
    before, rest = build.read_text().split(BEGIN, 1)
    lines = "\n".join(table(rows))
    atomic_write(build, f"{before}{BEGIN}\n{lines}\n{END}{rest.split(END, 1)[1]}".encode())
    print(f"written: {RESULTS} and {build}")


if __name__ == "__main__":
    main()
