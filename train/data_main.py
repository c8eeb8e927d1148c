"""Loads a preset's data set and says what it is: `python -m train.data_main --config=gan_fashion`."""

import dataclasses
import pathlib

from absl import flags

from zoo import binary, pretrained
from zoo.files import write_json

with binary.needs("train"):
    from train import config_flag, data
    from train.data import sources

_CONFIG = config_flag.define()
flags.declare_key_flag("config")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder with the data set's original files.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "JSON file for what was found, and for the configuration with all its fields."
)

_FILE_FIELDS = ("_dir", "_weights")  # how a model's configuration names files that it learns from


def main(_: list[str]) -> None:
    config = _CONFIG.value
    config.validate()
    data_dir = None if _DATA_DIR.value is None else pathlib.Path(_DATA_DIR.value).expanduser()
    name, size = config.data.name, config.data.image_size or None
    learnt = data.load(name, data_dir=data_dir, image_size=size)
    counts = ", ".join(f"{count:,} {key.replace('_', ' ')}" for key, count in learnt.sizes.items())
    print(f"{learnt.name}: {counts}")
    if _OUTPUT.value is not None:
        paths = [*sources.paths(name, data_dir), *_model_files(config.model)]
        described = {
            "config": pretrained.config_to_json(config),
            "data": f"{learnt.name}: {counts}",
            "paths": [str(path.absolute()) for path in paths],
        }
        write_json(pathlib.Path(_OUTPUT.value), described)


def _model_files(model: object) -> list[pathlib.Path]:
    """Files that a model learns from beside the data: a stylizer's paintings, VGG19's weights."""
    assert dataclasses.is_dataclass(model)
    values = {f.name: getattr(model, f.name) for f in dataclasses.fields(model)}
    named = [v for k, v in values.items() if k.endswith(_FILE_FIELDS) and isinstance(v, str) and v]
    return [path for path in (pathlib.Path(v).expanduser() for v in named) if path.exists()]


def run() -> None:
    """The console script."""
    binary.run(main, config_flag.parse)


if __name__ == "__main__":
    run()
