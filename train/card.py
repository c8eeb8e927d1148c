"""The model card: what was trained, on what, how, for how long, on which machine."""

import os
import pathlib
import platform
import shlex
import sys
from typing import Any

import keras
import tensorflow as tf

from train.data.dataset import DataSet
from zoo import model_card
from zoo.files import atomic_write, write_json
from zoo.workdir import Trained, previews


def write(workdir: pathlib.Path, trained: Trained, data: DataSet) -> dict[str, Any]:
    """Writes `<workdir>/card.json`, and `card.md` for people, for what the loop trained there; returns it."""
    config = trained.config
    # The program and its flags as a person would type them, without the path of this machine.
    command = ["python", "-m", "train.main", *sys.argv[1:]]
    card = {
        "name": config["name"],
        "family": config["family"],
        "model": config["model"],
        "data": {
            "name": config["data"]["name"],
            "source": data.source,
            "licence": data.licence,
            **data.sizes,
        },
        "command": shlex.join(command),
        "config_hash": model_card.config_hash(config),
        "code_version": model_card.code_version(),
        "seed": config["seed"],
        "steps": trained.step,
        "wall_seconds": round(trained.seconds, 1),
        "hardware": hardware(),
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
        "samples": [path.relative_to(workdir).as_posix() for path in previews(workdir)],
        "limits": trained.model.limits,
    }
    write_json(workdir / "card.json", card)
    atomic_write(workdir / "card.md", model_card.markdown(card).encode())
    return card


def hardware() -> str:
    """The processors and accelerators that TensorFlow used, in words."""
    name = platform.processor() or platform.machine()
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        name = names[0].split(":", 1)[1].strip() if names else name
    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    return ", ".join([f"{os.cpu_count()} cores of {name}", *gpus])
