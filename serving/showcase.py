"""The second half of `make demo`: what the kept models draw, write and compose, asked over gRPC.

Every function asks the server and writes files that a person can open; none of them needs TensorFlow.
"""

import io
import pathlib
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage import data as photos
from sklearn.datasets import load_digits

from serving import client as client_lib
from serving import music, png

AUTOENCODER, VAE, CHORALES = "autoencoder_mnist", "vae_mnist", "rnn_chorales"
# preset -> prompt, temperature, lines; the quatrains begin with the moon
POETS = {"rnn_shakespeare": ("JULIET:\n", 0.7, 10), "rnn_tang": ("明月", 0.7, 1)}
STYLIZER = "stylizer_paintings"
# title -> styles, strength, whether the photo's colours are kept
MANNERS = {
    "The Starry Night": ("van_gogh_starry_night_1889", 1.0, False),
    "half of it": ("van_gogh_starry_night_1889", 0.5, False),
    "Udnie": ("picabia_udnie_1913", 1.0, False),
    "The Starry Night and Udnie": ("van_gogh_starry_night_1889,picabia_udnie_1913", 1.0, False),
    "The Great Wave in its own colours": ("hokusai_great_wave_1831", 1.0, True),
}
PRESETS = (AUTOENCODER, VAE, *POETS, CHORALES, STYLIZER)

_INK, _PAPER = (33, 33, 33), (250, 250, 250)
_SHOWN, _SCALE = 10, 3
_NOISE = 0.25  # standard deviation
# Beethoven's "Ode to Joy" (1824) in quarter notes, G major, as MIDI numbers.
ODE = [
    *(71, 71, 72, 74, 74, 72, 71, 69, 67, 67, 69, 71, 71, 69, 69, 69),
    *(71, 71, 72, 74, 74, 72, 71, 69, 67, 67, 69, 71, 69, 67, 67, 67),
]  # fmt: skip


def digits() -> np.ndarray:
    """Handwritten digits of another set than MNIST, in its format: scikit-learn's 8x8, one of each class,
    enlarged to 20x20 in the middle of 28x28; float32 `[10, 28, 28, 1]` in `[0, 1]`."""
    found = load_digits()
    images = np.zeros([_SHOWN, 28, 28, 1], np.float32)
    for digit in range(_SHOWN):
        small = found.images[np.flatnonzero(found.target == digit)[3]]
        large = Image.fromarray(np.round(small * (255 / 16)).astype(np.uint8)).resize((20, 20), 3)
        images[digit, 4:24, 4:24, 0] = np.asarray(large) / 255.0
    return images


def reconstructions(client: client_lib.Client, out: pathlib.Path) -> pathlib.Path:
    """Digits, what is left of them in the autoencoder's code, and what it makes of noisy ones."""
    image = digits()
    noise = np.random.default_rng(0).normal(0.0, _NOISE, image.shape)
    noisy = np.clip(image + noise, 0.0, 1.0).astype(np.float32)
    code = client.predict(AUTOENCODER, {"image": image}, signature="encode")["code"]
    decoded = client.predict(AUTOENCODER, {"code": code}, signature="decode")["image"]
    restored = client.predict(AUTOENCODER, {"image": noisy}, signature="denoise")["image"]
    rows = {
        "digits": image,
        f"from {code.shape[1]} numbers each": decoded,
        "with noise": noisy,
        "restored": restored,
    }
    return _sheet(out / "reconstructions.png", rows)


def latent_walk(client: client_lib.Client, out: pathlib.Path) -> pathlib.Path:
    """From one digit to the next through the VAE's latent space; each walk begins and ends with the mean of a
    digit's posterior. Below them, digits that nobody wrote."""
    mean = client.predict(VAE, {"image": digits()}, signature="encode")["mean"]
    fraction = np.linspace(0.0, 1.0, _SHOWN, dtype=np.float32)
    rows = {}
    for start in range(0, _SHOWN, 2):
        ends = {"z_from": mean[start], "z_to": mean[start + 1]}
        request = {name: np.tile(z, (_SHOWN, 1)) for name, z in ends.items()} | {"fraction": fraction}
        title = f"from a {start} to a {start + 1}"
        rows[title] = client.predict(VAE, request, signature="interpolate")["image"]
    seed = np.arange(_SHOWN, dtype=np.int64)
    rows["drawn by seed"] = client.predict(VAE, {"seed": seed}, signature="sample")["image"]
    return _sheet(out / "latent_walk.png", rows)


def poem(client: client_lib.Client, preset: str, out: pathlib.Path) -> pathlib.Path:
    """A few lines of verse."""
    prompt, temperature, lines = POETS[preset]
    request: dict[str, Any] = {"prompt": [prompt], "seed": [7], "length": [400], "temperature": [temperature]}
    text = client.predict(preset, request, signature="generate")["text"][0].decode()
    path = out / f"{preset}.txt"
    path.write_text("\n".join(text.splitlines()[:lines]) + "\n", encoding="utf-8")
    return path


def chorale(client: client_lib.Client, out: pathlib.Path) -> pathlib.Path:
    """The Ode to Joy in four voices: as a score for other programs, a sound and a picture."""
    request: dict[str, Any] = {"soprano": [ODE], "seed": [19], "temperature": [0.7]}
    notes = client.predict(CHORALES, request, signature="harmonize")["notes"][0]
    (out / "ode_to_joy.mid").write_bytes(music.midi(notes))
    (out / "ode_to_joy.wav").write_bytes(music.wav(notes))
    path = out / "ode_to_joy.png"
    path.write_bytes(music.roll(notes))
    return path


def painted(client: client_lib.Client, out: pathlib.Path) -> pathlib.Path:
    """A photo of the astronaut Eileen Collins (NASA, public domain) as a JPEG file in, painted ones out."""
    photo = Image.fromarray(photos.astronaut()).resize((320, 320), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=95)
    styles, strength, keep = zip(*MANNERS.values(), strict=True)
    request: dict[str, Any] = {
        "image_bytes": [file.getvalue()] * len(styles),
        "style": list(styles),
        "strength": np.array(strength, np.float32),
        "preserve_color": list(keep),
    }
    answer = client.predict(STYLIZER, request, signature="stylize_bytes")["image_bytes"]
    pictures = [photo, *(Image.open(io.BytesIO(image)) for image in answer)]
    title, gap, columns = 22, 4, 3
    step_x, step_y = photo.width + gap, photo.height + title + gap
    sheet = Image.new("RGB", (columns * step_x + gap, -(-len(pictures) // columns) * step_y + gap), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for i, (name, picture) in enumerate(zip(["a photo", *MANNERS], pictures, strict=True)):
        row, column = divmod(i, columns)
        draw.text((column * step_x + gap, row * step_y + 3), name, _INK, font)
        sheet.paste(picture, (column * step_x + gap, row * step_y + title))
    path = out / "painted.jpg"
    sheet.save(path, quality=95)
    return path


def write_all(client: client_lib.Client, out: pathlib.Path) -> list[pathlib.Path]:
    """Asks every preset of `PRESETS`; returns what there is to look at."""
    return [
        reconstructions(client, out),
        latent_walk(client, out),
        *(poem(client, preset, out) for preset in POETS),
        chorale(client, out),
        painted(client, out),
    ]


def _sheet(path: pathlib.Path, rows: dict[str, np.ndarray]) -> pathlib.Path:
    """Rows of grey images `[N, H, W, 1]` in `[0, 1]`, each below its title."""
    title, gap = 22, 4
    count, height, width, _ = next(iter(rows.values())).shape
    step_y = height * _SCALE + title + gap
    size = (count * (width * _SCALE + gap) + gap, len(rows) * step_y + gap)
    sheet = Image.new("RGB", size, _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for row, (name, images) in enumerate(rows.items()):
        draw.text((gap, row * step_y + 3), name, _INK, font)
        for column, image in enumerate(np.round(images[..., 0] * 255).astype(np.uint8)):
            tile = Image.fromarray(image).resize((width * _SCALE, height * _SCALE), Image.Resampling.NEAREST)
            sheet.paste(tile, (gap + column * (width * _SCALE + gap), row * step_y + title))
    path.write_bytes(png.encode(np.asarray(sheet)))
    return path
