"""Every family at a size that steps in milliseconds; the conformance tests run over these tables."""

import atexit
import functools
import pathlib
import shutil
import tempfile

import numpy as np

import zoo
from train import config as config_lib
from train import data
from train.data.chorales import MusicData
from train.data.dataset import DataSet
from train.data.images import ImageData, Images
from train.data.pipeline import Augment
from train.data.text import TextData
from zoo import arbitrary_stylizer, autoencoder, chorales, cnn, gan, pictures, rnn, stylizer, vae, vgg19


def _paintings() -> str:
    """A folder of two pictures, for as long as this process lives."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="atelier-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, colour in (("reds", [0.9, 0.2, 0.1]), ("blues", [0.1, 0.2, 0.9])):
        stripes = (np.arange(16) % 4 < 2)[:, None, None] * np.array(colour) * np.ones((16, 16, 3))
        (folder / f"{name}.png").write_bytes(pictures.encode(stripes, ".png"))
    return str(folder)


CONFIGS = {
    "arbitrary_stylizer": arbitrary_stylizer.Config(
        image_shape=(16, 16, 3),
        vgg19_weights=vgg19.RANDOM,
        stem=4,
        channels=4,
        blocks=1,
        embedding_dim=5,
    ),
    "autoencoder": autoencoder.Config(
        image_shape=(8, 8, 1), code_dim=6, channels=8, hidden=16, denoiser_channels=8
    ),
    "chorales": chorales.Config(embedding=4, units=8, hidden=8, dropout=0.2, particles=3),
    "cnn": cnn.Config(image_shape=(8, 8, 1), stem=4, widths=(8, 8)),
    "gan": gan.Config(image_shape=(8, 8, 1), latent_dim=6, channels=8),
    "rnn": rnn.Config(alphabet="\n abcdehnortu", units=8, embedding=4, dropout=0.2),
    "stylizer": stylizer.Config(
        image_shape=(16, 16, 3),
        styles=("reds", "blues"),
        style_dir=_paintings(),
        style_size=16,
        vgg19_weights=vgg19.RANDOM,
        stem=4,
        channels=4,
        blocks=1,
    ),
    "vae": vae.Config(image_shape=(8, 8, 1), latent_dim=6, channels=8, hidden=16),
}
# A field that cannot be, for each family.
BROKEN = {
    "arbitrary_stylizer": {"embedding_dim": 1},
    "autoencoder": {"image_shape": (8, 8, 2)},
    "chorales": {"dropout": 1.5},
    "cnn": {"image_shape": (8, 8, 2)},
    "gan": {"image_shape": (8, 8, 2)},
    "rnn": {"units": 0},
    "stylizer": {"image_shape": (16, 16, 1)},
    "vae": {"latent_dim": 0},
}


@functools.cache
def digits() -> DataSet:
    return data.load("digits")


@functools.cache
def photos() -> DataSet:
    """64 pictures in colour, of two kinds: smooth ones and rough ones."""
    random = np.random.default_rng(0)
    smooth = (
        random.random((64, 1, 1, 3)) * np.linspace(0, 1, 16)[:, None, None] * np.ones((16, 16, 1))
    )
    kind = np.arange(64) % 2
    rough = random.random((64, 16, 16, 3)) * (0.3 + 0.7 * kind)[:, None, None, None]
    pixels = np.round(255 * (0.5 * smooth + 0.5 * rough)).astype(np.uint8)
    train, test = (Images(pixels[part], kind[part].astype(np.int32)) for part in (slice(48), slice(48, 64)))
    return ImageData("photos", ("smooth", "rough"), train, test, "ours", "tests/tiny.py")


@functools.cache
def melodies() -> DataSet:
    """64 little pieces of music: chords that move up and down by steps."""
    random = np.random.default_rng(0)
    chord = np.array([67, 64, 60, 48], np.int32)
    pieces = [chord + random.integers(-5, 6, (frames, 1)) for frames in random.integers(6, 20, 64)]
    pieces = tuple(piece.astype(np.int32) for piece in pieces)
    return MusicData("melodies", pieces[:48], pieces[48:56], pieces[56:], "ours", "tests/tiny.py")


@functools.cache
def verse() -> DataSet:
    text = "to be or not to be\nabcdehortu\n" * 20
    return TextData("verse", text, text[:400], "", "")


# What each family learns from at that size.
DATA = {
    "arbitrary_stylizer": photos,
    "autoencoder": digits,
    "chorales": melodies,
    "cnn": digits,
    "gan": digits,
    "rnn": verse,
    "stylizer": photos,
    "vae": digits,
}


def settings(**changes) -> config_lib.Data:
    """The `data` part of a configuration for `DATA`; the trainer does not look at its name."""
    return config_lib.Data(name="tiny", **{"batch_size": 16, "length": 8, **changes})


def batch(family: str, rows: int = 16):
    """The first training batch (x, y) of a family."""
    return next(iter(DATA[family]().train_batches(settings(batch_size=rows), seed=0)))


def config(family: str, **changes) -> config_lib.Config:
    """A run of twenty steps."""
    made = config_lib.Config(
        name=f"{family}_tiny",
        family=family,
        model=CONFIGS[family],
        # A stylizer's go through VGG19.
        data=settings(batch_size=8 if "stylizer" in family else 32, augment=Augment(shift=1)),
        optimizer=config_lib.Optimizer(learning_rate=5e-4, beta_1=0.5),
        steps=20,
        steps_per_execution=3,
        log_every=1,
        eval_every=10,
        preview_every=20,
        checkpoint_every=10,
    )
    for name, value in changes.items():
        setattr(made, name, value)
    made.validate()
    return made


def painter(family: str):
    """A stylizer whose weights are all random: a fresh one adds nothing."""
    made = zoo.build(family, CONFIGS[family], seed=1)
    random = np.random.default_rng(1)
    for weight in made.network.weights:
        weight.assign(random.normal(0.0, 0.3, weight.shape))
    return made
