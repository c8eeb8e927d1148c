"""The typed configuration of one training run."""

import dataclasses
import enum
import json
import pathlib
import re
import typing
from typing import Any

import zoo
from train.data.pipeline import Augment
from zoo import pretrained
from zoo.errors import UserError


class OptimizerName(enum.StrEnum):
    ADAM = "adam"
    ADAMW = "adamw"
    MUON = "muon"  # of the kernels of hidden convolutions; all else: Adam at a sixth of the rate


class Schedule(enum.StrEnum):
    CONSTANT = "constant"
    COSINE = "cosine"  # to 0 over the whole run (Loshchilov & Hutter 2017, arXiv:1608.03983)
    LINEAR_TAIL = "linear_tail"  # constant, then linearly to a tenth over the second half


class Precision(enum.StrEnum):
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"  # layers compute in it; weights, losses and optimizers stay in float32
    FLOAT16 = "float16"  # likewise, with a loss scale that finds itself; for GPUs without bfloat16


@dataclasses.dataclass
class Data:
    name: str = "digits"  # a name of train/data, or folder:<path>, or tfds:<name>
    image_size: int = 0  # pictures are resized to this square; 0 keeps their own size
    length: int = 128  # symbols of text, or frames of music, in a training window
    batch_size: int = 64  # of all replicas together
    augment: Augment = dataclasses.field(default_factory=Augment)


@dataclasses.dataclass
class Optimizer:
    name: OptimizerName = OptimizerName.ADAM
    learning_rate: float = 1e-3
    beta_1: float = 0.9
    weight_decay: float = 0.0  # decoupled; adamw only
    schedule: Schedule = Schedule.CONSTANT
    warmup_steps: int = 0  # the rate grows linearly over so many steps


@dataclasses.dataclass
class Config:
    """One run: a preset's function returns it, `--config.<field>=<value>` changes it."""

    name: str  # the preset's name; also that of its weights and of the served model
    family: str
    model: Any  # the family's Config; what is in FROM_DATA comes from the data
    data: Data
    optimizer: Optimizer
    steps: int  # optimizer steps of the whole run
    seed: int = 0  # of weights, noise, data order and augmentation
    mixed_precision: Precision = Precision.FLOAT32
    xla: bool = False  # compiles the step as a whole; slower on CPUs, but for rnn. One replica a process
    steps_per_execution: int = 50  # steps in one call of the compiled loop
    log_every: int = 100  # steps between lines of metrics.jsonl
    eval_every: int = 1000  # steps between passes over the held-out split
    preview_every: int = 1000  # steps between pictures in previews/
    checkpoint_every: int = 1000  # steps between checkpoints: what a killed run can lose
    keep_checkpoints: int = 2  # the newest ones
    keep_best: str = ""  # a loss: its best checkpoint on the held-out split stays, too, in checkpoints/best/

    def validate(self) -> None:
        """Raises `UserError` for the first value that cannot work."""
        family = zoo.family(self.family)
        if not isinstance(self.model, family.Config):
            raise UserError(
                f"config.family={self.family}: this preset's model is of another family; choose a preset"
            )
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.name):
            raise UserError(f"config.name={self.name!r}: letters, digits, '_', '-' and '.' are expected")
        _check_tuples(self.model)
        for name in (
            "steps",
            "steps_per_execution",
            "log_every",
            "eval_every",
            "preview_every",
            "checkpoint_every",
            "keep_checkpoints",
        ):
            if getattr(self, name) < 1:
                raise UserError(f"config.{name}={getattr(self, name)}: at least 1 is expected")
        for name in ("eval_every", "preview_every", "checkpoint_every"):
            # Losses are means since the last line, which an evaluation would end.
            if getattr(self, name) % self.log_every:
                raise UserError(
                    f"config.{name}={getattr(self, name)}: a multiple of"
                    f" config.log_every={self.log_every} is expected"
                )
        smallest = family.Model.smallest_batch
        if self.data.batch_size < smallest:
            raise UserError(
                f"config.data.batch_size={self.data.batch_size}: at least {smallest} is expected"
            )
        if self.data.length < 1:
            raise UserError(f"config.data.length={self.data.length}: at least 1 is expected")
        if self.data.image_size < 0:
            raise UserError(f"config.data.image_size={self.data.image_size}: 0 or more is expected")
        self.data.augment.validate()
        if self.optimizer.warmup_steps < 0 or self.optimizer.weight_decay < 0:
            raise UserError(
                f"config.optimizer.warmup_steps={self.optimizer.warmup_steps}, weight_decay="
                f"{self.optimizer.weight_decay}: 0 or more is expected"
            )
        if not 0 <= self.optimizer.beta_1 < 1:
            raise UserError(
                f"config.optimizer.beta_1={self.optimizer.beta_1}: a number in [0, 1) is expected"
            )
        if not self.optimizer.learning_rate > 0:
            raise UserError(
                f"config.optimizer.learning_rate={self.optimizer.learning_rate}: a positive number"
                " is expected"
            )
        if self.optimizer.weight_decay and self.optimizer.name != OptimizerName.ADAMW:
            raise UserError(
                f"config.optimizer.weight_decay={self.optimizer.weight_decay} needs"
                " config.optimizer.name=adamw"
            )
        try:
            self.model.validate()
        except ValueError as error:
            raise UserError(f"config.model: {error}") from error


# What the data decides; a value given for it would be overwritten.
FROM_DATA = ("image_shape", "class_names", "alphabet")


def _check_tuples(model: Any) -> None:
    """ml_collections reads `--config.model.widths=abc` as a tuple of whatever stands there."""
    hints = typing.get_type_hints(type(model))
    for field in dataclasses.fields(model):
        value = getattr(model, field.name)
        if typing.get_origin(hints[field.name]) is not tuple:
            continue
        kinds = [k for k in typing.get_args(hints[field.name]) if k is not Ellipsis]
        if not isinstance(value, tuple) or not all(type(v) is kinds[0] for v in value):
            raise UserError(
                f"config.model.{field.name}={value!r}: a tuple of {kinds[0].__name__} is expected,"
                f" for example --config.model.{field.name}=(1,2)"
            )


def fields(config: Any, prefix: str = "config") -> dict[str, str]:
    """The legal fields of a configuration: dotted name → type."""
    found: dict[str, str] = {}
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        if field.name in FROM_DATA:
            continue
        value = getattr(config, field.name)
        name = f"{prefix}.{field.name}"
        if dataclasses.is_dataclass(value):
            found.update(fields(value, name))
        elif isinstance(value, enum.Enum):
            found[name] = "|".join(type(value))
        else:
            hint = hints[field.name]
            found[name] = hint.__name__ if isinstance(hint, type) else str(hint)
    return found


def to_json(config: Config) -> str:
    """The configuration as indented JSON; `read` reads it back."""
    return json.dumps(pretrained.config_to_json(config), indent=2) + "\n"


def read(path: pathlib.Path) -> Config:
    """The configuration that `to_json` wrote. Raises `UserError` for a file that is none."""
    try:
        values = json.loads(path.read_text())
        config = pretrained.config_from_json(Config, values)
        config.model = pretrained.config_from_json(zoo.family(values["family"]).Config, values["model"])
    except (ValueError, TypeError, KeyError, UserError) as error:
        raise UserError(f"{path} is no training configuration: {error}") from error
    return config


def differences(old: Config, new: Config) -> list[str]:
    """`field: old → new` for each field that differs."""

    def flat(values: Any, prefix: str) -> dict[str, Any]:
        if not isinstance(values, dict):
            return {prefix: values}
        return {k: v for n, x in values.items() for k, v in flat(x, f"{prefix}.{n}").items()}

    a = flat(pretrained.config_to_json(old), "config")
    b = flat(pretrained.config_to_json(new), "config")
    return [f"{k}: {a.get(k)} → {b.get(k)}" for k in sorted(a | b) if a.get(k) != b.get(k)]
