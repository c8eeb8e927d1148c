"""Films go in and out, with their sound and upright."""

import fractions

import av
import numpy as np
import pytest

from zoo import video
from zoo.errors import UserError

RATE = fractions.Fraction(10)


def frames(height=33, width=48):
    """Ten frames that get lighter; the left half is red."""
    for level in np.linspace(0, 1, 10, dtype=np.float32):
        frame = np.full((height, width, 3), level, np.float32)
        frame[:, : width // 2, 1:] = 0
        yield frame


def _film_with_sound(path, codec, rate=44100):
    with av.open(str(path), "w") as output:
        picture = output.add_stream("libx264", rate=10)
        sound = output.add_stream(codec, rate=rate, layout="mono")
        picture.width, picture.height, picture.pix_fmt = 48, 32, "yuv420p"
        for frame in frames(32):
            pixels = np.round(frame * 255).astype(np.uint8)
            output.mux(picture.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        output.mux(picture.encode())
        wave = np.sin(np.arange(44100, dtype=np.float32) / 20)[None]
        spoken = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        spoken.sample_rate = 44100
        output.mux(sound.encode(spoken))
        output.mux(sound.encode())
    return path


def _heard(path):
    with av.open(str(path)) as container:
        return np.concatenate([f.to_ndarray()[0] for f in container.decode(audio=0)])


@pytest.fixture
def with_sound(tmp_path):
    return _film_with_sound(tmp_path / "sound.mp4", "aac")


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".gif", ".GIF"])
def test_what_is_written_is_what_is_read(tmp_path, suffix):
    path = tmp_path / "new" / f"film{suffix}"
    assert video.write(path, frames(), RATE) == 10
    film = video.read(path)
    assert film.rate == RATE
    got = list(film.frames)
    assert len(got) == 10
    height = 33 if suffix.lower() == ".gif" else 32  # H.264 has even sides
    for frame, expected in zip(got, frames(height), strict=True):
        assert frame.shape == expected.shape and frame.dtype == np.float32
        # Colours are kept at half the resolution: not at the border.
        for half in (slice(0, 20), slice(28, 48)):
            np.testing.assert_allclose(frame[:, half], expected[:, half], atol=0.06)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_sound_is_copied(tmp_path, with_sound):
    path = tmp_path / "film.mp4"
    video.write(path, frames(), RATE, sound=with_sound)
    np.testing.assert_array_equal(_heard(path), _heard(with_sound))


@pytest.mark.parametrize("rate", [44100, 11127])  # AAC knows no such rate as the second
def test_sound_that_the_new_file_cannot_hold_is_encoded_anew(rate, tmp_path):
    old = _film_with_sound(tmp_path / "old.avi", "pcm_u8", rate)
    video.write(tmp_path / "film.mp4", frames(), RATE, sound=old)
    with av.open(str(tmp_path / "film.mp4")) as film:
        written = film.streams.audio[0].rate
    heard = _heard(tmp_path / "film.mp4")[written // 10 : written * 9 // 10]
    hertz = written * np.abs(np.fft.rfft(heard * np.hanning(len(heard)))).argmax() / len(heard)
    assert hertz == pytest.approx(44100 / (2 * np.pi * 20), rel=0.02)  # the same note
    assert np.abs(heard).max() == pytest.approx(1.0, abs=0.1)


def test_a_film_without_sound_and_a_gif_have_none(tmp_path, with_sound):
    silent = tmp_path / "silent.mp4"
    video.write(silent, frames(), RATE)
    video.write(tmp_path / "again.mp4", frames(), RATE, sound=silent)
    video.write(tmp_path / "film.gif", frames(), RATE, sound=with_sound)
    for name in ("again.mp4", "film.gif"):
        with av.open(str(tmp_path / name)) as container:
            assert [stream.type for stream in container.streams] == ["video"]


def test_a_film_from_a_telephone_stands_upright(tmp_path):
    path = tmp_path / "film.mp4"
    video.write(path, frames(), RATE)
    data = bytearray(path.read_bytes())
    # The matrix in the track's header, ISO 14496-12, 8.3.2: a quarter turn, clockwise.
    matrix = [1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30]
    turned = [0, 1 << 16, 0, (1 << 32) - (1 << 16), 0, 0, 0, 0, 1 << 30]
    plain, other = (b"".join(x.to_bytes(4, "big") for x in values) for values in (matrix, turned))
    at = data.index(plain, data.index(b"tkhd"))
    data[at : at + len(plain)] = other
    path.write_bytes(data)
    *_, last = video.read(path).frames
    assert last.shape == (48, 32, 3)
    # What was left is up.
    assert last[:20, :, 1].max() < 0.1 and last[28:, :, 1].min() > 0.9


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.mp4", None, "there is no film"),
        ("text.mp4", b"no film", "cannot be read as a film"),
        ("empty.gif", b"", "cannot be read as a film"),
    ],
)
def test_what_is_no_film_is_one_clear_error(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        video.read(tmp_path / name)


def test_a_film_of_sound_alone_is_one_clear_error(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as output:
        sound = output.add_stream("aac", rate=44100)
        wave = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        wave.sample_rate = 44100
        output.mux(sound.encode(wave))
        output.mux(sound.encode())
    with pytest.raises(UserError, match="holds no pictures"):
        video.read(path)


def test_nothing_is_left_of_a_film_that_failed(tmp_path):
    path = tmp_path / "film.mp4"
    path.write_bytes(b"the old one")

    def failing():
        yield next(frames())
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        video.write(path, failing(), RATE)
    assert path.read_bytes() == b"the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]
    with pytest.raises(UserError, match="no frame to write"):
        video.write(path, [], RATE)
