"""One interface for what a run reports, and its sinks: console, JSONL, TensorBoard, preview files.

A run on several workers gives its chief a `MultiWriter` of all sinks and the others an empty one.
"""

import contextlib
import datetime
import io
import json
import math
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf
from absl import logging
from google.protobuf import text_format
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from tensorboard.plugins.projector import EmbeddingInfo, ProjectorConfig
from tensorboard.plugins.projector import metadata as projector_metadata

from serving import music
from train.image_grid import image_grid
from zoo.base import Embedding
from zoo.files import atomic_write

# Values that depend on the machine's speed have names that start so: whoever compares two runs
# leaves them out.
RATE = "rate/"
_THUMBNAIL = 48  # pixels


class Writer:
    """A sink; each one overrides what it keeps and ignores the rest."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Reports named numbers, measured after `step` steps; NaN and infinity are allowed."""

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Reports named images: float [N, H, W, C] or [H, W, C] in [0, 1], C = 1 or 3."""

    def text(self, step: int, values: Mapping[str, str]) -> None:
        """Reports named texts."""

    def notes(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        """Reports named pieces of music: MIDI numbers, int [T, voices], as `serving.music` takes them."""

    def embeddings(self, step: int, values: Mapping[str, Embedding]) -> None:
        """Reports named points of a learnt space."""

    def flush(self) -> None:
        """Makes what was written so far visible to readers."""

    def close(self) -> None:
        """Flushes and frees; nothing may be written afterwards."""


class MultiWriter(Writer):
    """Passes everything on to several sinks; without any, it swallows everything."""

    def __init__(self, writers: Sequence[Writer]):
        self._writers = tuple(writers)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.scalars(step, values)

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        for writer in self._writers:
            writer.images(step, values)

    def text(self, step: int, values: Mapping[str, str]) -> None:
        for writer in self._writers:
            writer.text(step, values)

    def notes(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        for writer in self._writers:
            writer.notes(step, values)

    def embeddings(self, step: int, values: Mapping[str, Embedding]) -> None:
        for writer in self._writers:
            writer.embeddings(step, values)

    def flush(self) -> None:
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


class ConsoleWriter(Writer):
    """A line per report, with rates and ETA; on a terminal, a progress bar below the lines.

    Rates are the values called `rate/<what>_per_second`; the ETA needs `rate/steps_per_second`.

    Args:
        total_steps: the step at which the run ends.
        console: where to write; default: standard output.
    """

    def __init__(self, total_steps: int, console: Console | None = None):
        self._total_steps = total_steps
        self._console = console or Console()
        self._progress = None
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("step {task.completed}/{task.total}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.description}"),
                console=self._console,
                refresh_per_second=2,
            )
            self._task = self._progress.add_task("starting", total=total_steps)
            self._progress.start()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        numbers = [f"{k} {v:.4g}" for k, v in values.items() if not k.startswith(RATE)]
        speed = self._speed(step, values)
        if self._progress is None:
            self._print("  ".join([f"step {step}/{self._total_steps}", *speed, *numbers]))
        else:
            self._print("  ".join([f"step {step}", *numbers]))
            self._progress.update(self._task, completed=step)
            if speed:
                self._progress.update(self._task, description="  ".join(speed))

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _speed(self, step: int, values: Mapping[str, float]) -> list[str]:
        parts = []
        for name, value in values.items():
            if name == f"{RATE}input_wait":
                parts.append(f"{value:.0%} waiting for data")
            elif name.startswith(RATE):
                number = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
                what = name.removeprefix(RATE).removesuffix("_per_second")
                parts.append(f"{number} GFLOP/s" if what == "gflops" else f"{number} {what}/s")
        steps_per_second = values.get(f"{RATE}steps_per_second", 0.0)
        if steps_per_second > 0:
            left = datetime.timedelta(seconds=round((self._total_steps - step) / steps_per_second))
            parts.append(f"ETA {left}")
        return parts


class JsonlWriter(Writer):
    """Scalars as one JSON object a line: `{"step": 100, "loss": 0.5}`; other kinds are not kept.

    NaN and infinity become the strings "nan", "inf" and "-inf": JSON has no numbers for them, and
    `float()` reads these.

    Args:
        path: the file; appended to if it is there.
        resume_step: the step from which this run goes on. Lines of later steps are dropped, since
            these steps run again; so is a line that a killed process left half-written.
    """

    def __init__(self, path: str | pathlib.Path, resume_step: int = 0):
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            old = path.read_bytes()
            kept = b"".join(
                line + b"\n" for line in old.splitlines() if _is_kept(path, line, resume_step)
            )
            if kept != old:
                atomic_write(path, kept)
        self._stream = path.open("a", encoding="utf-8")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        row = {"step": step} | {k: _json_number(float(v)) for k, v in values.items()}
        # One write, so that a killed process can leave no more than the last line half-written.
        self._stream.write(json.dumps(row, allow_nan=False) + "\n")
        self._stream.flush()

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


def _is_kept(path: pathlib.Path, line: bytes, resume_step: int) -> bool:
    try:
        return json.loads(line)["step"] <= resume_step
    except (ValueError, KeyError, TypeError):
        logging.warning("%s: dropped a line that is not whole: %.80r", path, line)
        return False


def _json_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


class TensorBoardWriter(Writer):
    """TensorBoard events in a folder: scalars, image grids, text, and music as a roll and a sound. Points, as
    they are now, for its projector: `projector_config.pbtxt` and what it names in `projector/`.

    Every method raises OSError if the events cannot be written (full disk, unwritable folder).
    """

    def __init__(self, folder: str | pathlib.Path):
        self._folder = pathlib.Path(folder)
        self._points: dict[str, EmbeddingInfo] = {}
        with self._os_errors():
            self._writer = tf.summary.create_file_writer(str(folder))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        with self._os_errors(), self._writer.as_default():
            for name, value in values.items():
                tf.summary.scalar(name, value, step)

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        with self._os_errors(), self._writer.as_default():
            for name, value in values.items():
                tf.summary.image(name, _as_one_image(value)[None], step)

    def text(self, step: int, values: Mapping[str, str]) -> None:
        with self._os_errors(), self._writer.as_default():
            for name, value in values.items():
                # TensorBoard reads Markdown: an indented block keeps its lines and characters as they are.
                tf.summary.text(name, "\n".join(f"    {line}" for line in value.splitlines()), step)

    def notes(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        with self._os_errors(), self._writer.as_default():
            for name, value in values.items():
                sound, rate = tf.audio.decode_wav(music.wav(value))
                tf.summary.audio(name, sound[None], int(rate), step)
                tf.summary.image(f"{name}_roll", tf.io.decode_png(music.roll(value))[None], step)

    def embeddings(self, step: int, values: Mapping[str, Embedding]) -> None:
        folder = self._folder / "projector"
        for name, points in values.items():
            info = self._points[name] = EmbeddingInfo(
                tensor_name=name,
                tensor_path=f"projector/{name}.tsv",
                metadata_path=f"projector/{name}_labels.tsv",
            )
            rows = ("\t".join(f"{x:.6g}" for x in vector) for vector in points.vectors)
            atomic_write(folder / f"{name}.tsv", ("\n".join(rows) + "\n").encode())
            atomic_write(folder / f"{name}_labels.tsv", ("\n".join(points.labels) + "\n").encode())
            if points.images is not None:
                sheet, sides = sprites(points.images)
                info.sprite.image_path = f"projector/{name}.png"
                info.sprite.single_image_dim[:] = sides
                atomic_write(folder / f"{name}.png", _png(sheet))
        atomic_write(
            self._folder / projector_metadata.PROJECTOR_FILENAME,
            text_format.MessageToString(ProjectorConfig(embeddings=self._points.values())).encode(),
        )

    def flush(self) -> None:
        with self._os_errors():
            self._writer.flush()

    def close(self) -> None:
        with self._os_errors():
            self._writer.close()

    @contextlib.contextmanager
    def _os_errors(self) -> Iterator[None]:
        try:
            yield
        except tf.errors.OpError as error:
            # "{{node ...}} <reason> [Op:...]", with further lines that repeat it.
            reason = error.message.rpartition("}} ")[2].partition(" [Op:")[0].splitlines()[0]
            raise OSError(
                f"cannot write TensorBoard events in {self._folder} ({reason}); "
                f"free some space or change its rights"
            ) from error


class PreviewWriter(Writer):
    """Previews as files, each atomic: `step_000123_<name>` with an ending of its kind.

    A batch of images is a grid in a .png, text a .txt, music a .mid, a .wav and its roll as a .png.
    """

    def __init__(self, folder: str | pathlib.Path):
        self._folder = pathlib.Path(folder)

    def images(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        for name, value in values.items():
            self._write(step, name, ".png", _png(_as_one_image(value)))

    def text(self, step: int, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            self._write(step, name, ".txt", f"{value}\n".encode())

    def notes(self, step: int, values: Mapping[str, np.ndarray]) -> None:
        for name, value in values.items():
            self._write(step, name, ".mid", music.midi(value))
            self._write(step, name, ".wav", music.wav(value))
            self._write(step, name, ".png", music.roll(value))

    def _write(self, step: int, name: str, ending: str, content: bytes) -> None:
        safe = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
        atomic_write(self._folder / f"step_{step:06d}_{safe}{ending}", content)


def _as_one_image(value: np.ndarray) -> np.ndarray:
    """Float [N, H, W, C] or [H, W, C] in [0, 1] to one uint8 [H', W', C]."""
    value = np.asarray(value)
    return image_grid(value if value.ndim == 4 else value[None])


def _png(image: np.ndarray) -> bytes:
    """Of uint8 [H, W, C]."""
    png = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(png, "PNG")
    return png.getvalue()


def sprites(images: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Float [N, H, W, C] in [0, 1] as one sheet, uint8, without gaps, of thumbnails of up to 48 pixels in as
    many columns as rows; and a thumbnail's width and height."""
    step = math.ceil(max(images.shape[1:3]) / _THUMBNAIL)
    thumbnails = np.round(255 * images[:, ::step, ::step]).astype(np.uint8)
    count, height, width, channels = thumbnails.shape
    side = math.ceil(math.sqrt(count))
    cells = np.zeros((side * side, height, width, channels), np.uint8)
    cells[:count] = thumbnails
    sheet = cells.reshape(side, side, height, width, channels).swapaxes(1, 2)
    return sheet.reshape(side * height, side * width, channels), [width, height]
