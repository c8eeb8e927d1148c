"""Films and animated GIFs as frames, and frames as films: by PyAV, which brings FFmpeg's libraries."""

import contextlib
import fractions
import os
import pathlib
import uuid
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import av
import numpy as np
from PIL import Image

from zoo.errors import UserError
from zoo.files import sync

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")  # that are read
WRITTEN = (".mp4", ".mov", ".mkv", ".gif")
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_QUALITY = "18"  # x264's constant rate factor: hardly to be told from the original


class Film(NamedTuple):
    """A film on disk; its frames are decoded as they are asked for."""

    frames: Iterator[np.ndarray]  # float32 [H, W, 3] in [0, 1]
    rate: fractions.Fraction  # frames a second
    length: int  # frames, as the file says; 0: it does not


def read(path: pathlib.Path) -> Film:
    """Opens a film or an animated GIF.

    Raises:
        UserError: there is none, or it cannot be read; from `frames`, too, where it is damaged.
    """
    if not path.is_file():
        raise UserError(f"there is no film {path}")
    with _readable(path), av.open(str(path)) as container:
        stream = _stream(container, path)
        rate = stream.average_rate or stream.guessed_rate or fractions.Fraction(25)
        return Film(_frames(path), fractions.Fraction(rate), stream.frames)


def _stream(container, path: pathlib.Path):
    if not container.streams.video:
        raise UserError(f"{path} holds no pictures; a film or an animated GIF is expected")
    return container.streams.video[0]


@contextlib.contextmanager
def _readable(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except av.error.FFmpegError as error:
        raise UserError(f"{path} cannot be read as a film ({error.strerror})") from error


def _frames(path: pathlib.Path) -> Iterator[np.ndarray]:
    with _readable(path), av.open(str(path)) as container:
        stream = _stream(container, path)
        stream.thread_type = "AUTO"
        for frame in container.decode(stream):
            pixels = frame.to_ndarray(format="rgb24")
            # Telephones film on their side and say so.
            upright = np.rot90(pixels, round(frame.rotation / 90))
            yield np.ascontiguousarray(upright, np.float32) / 255.0


def write(
    path: pathlib.Path,
    frames: Iterable[np.ndarray],
    rate: fractions.Fraction,
    sound: pathlib.Path | None = None,
) -> int:
    """Writes frames `[H, W, 3]` in `[0, 1]`, all of one size, as H.264 or, by its suffix, as a GIF.

    The file appears complete or not at all. Returns how many frames there were.

    Args:
        sound: a film whose sound is copied, or encoded anew where the new file cannot hold it as it is; a
            GIF has none.

    Raises:
        UserError: the file cannot be written, or there is no frame.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        pixels = (np.round(np.clip(frame, 0.0, 1.0) * 255).astype(np.uint8) for frame in frames)
        if path.suffix.lower() == ".gif":
            count = _write_gif(part, pixels, rate)
        else:
            count = _write_film(part, pixels, rate, sound)
        if not count:
            raise UserError(f"there is no frame to write to {path}")
        sync(part)
        os.replace(part, path)
        sync(path.parent)
        return count
    except (av.error.FFmpegError, OSError) as error:
        raise UserError(f"cannot write {path} ({error.strerror})") from error
    finally:
        part.unlink(missing_ok=True)


def _write_gif(path: pathlib.Path, frames: Iterator[np.ndarray], rate: fractions.Fraction) -> int:
    # A palette for each frame: kept as 8-bit pictures, a third of the memory.
    images = [Image.fromarray(frame).quantize(256) for frame in frames]
    if images:
        milliseconds = max(20, round(1000 / rate))  # browsers take less for a mistake
        images[0].save(path, "GIF", save_all=True, append_images=images[1:], duration=milliseconds, loop=0)
    return len(images)


def _write_film(
    path: pathlib.Path, frames: Iterator[np.ndarray], rate: fractions.Fraction, sound: pathlib.Path | None
) -> int:
    count = 0
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(av.open(str(path), "w"))
        stream = output.add_stream("libx264", rate=rate, options={"crf": _QUALITY})
        stream.pix_fmt = "yuv420p"
        spoken: Iterable[av.Packet] = ()
        if sound is not None:
            source = stack.enter_context(av.open(str(sound)))
            if source.streams.audio:
                spoken = _with_sound(output, source)
        for frame in frames:
            # Its colours are halved in both directions: an odd last row or column is left out.
            height, width = (side - side % 2 for side in frame.shape[:2])
            if not count:
                stream.height, stream.width = height, width
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), "rgb24")
            output.mux(stream.encode(picture))
            count += 1
        if count:
            output.mux(stream.encode())
        for packet in spoken:
            output.mux(packet)
    return count


def _with_sound(
    output: av.container.OutputContainer, source: av.container.InputContainer
) -> Iterator[av.Packet]:
    """Gives `output`, which holds nothing yet, a stream of sound; returns what is to go into it."""
    heard = source.streams.audio[0]
    try:
        copied = output.add_stream_from_template(heard)
    except ValueError:  # such a file cannot hold that codec
        layout = "mono" if heard.channels == 1 else "stereo"
        rate = heard.rate if heard.rate in _AAC_RATES else 48_000
        encoded = output.add_stream("aac", rate=rate, layout=layout)
        return _encoded(encoded, source.decode(heard))
    return _copied(copied, source.demux(heard))


def _copied(stream: av.AudioStream, packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
    for packet in packets:
        if packet.dts is not None:
            packet.stream = stream
            yield packet


def _encoded(stream: av.AudioStream, frames: Iterable[av.AudioFrame]) -> Iterator[av.Packet]:
    for frame in frames:
        yield from stream.encode(frame)
    yield from stream.encode()
