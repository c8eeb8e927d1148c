"""Every family at a size that steps in milliseconds; the conformance tests run over these tables."""

import functools

from train import config as config_lib
from train import data
from train.data.dataset import DataSet
from zoo import autoencoder, cnn, gan
from zoo import cnn, gan, vae

CONFIGS = {
    "autoencoder": autoencoder.Config(
        image_shape=(8, 8, 1), code_dim=6, channels=8, hidden=16, denoiser_channels=8
    ),
    "cnn": cnn.Config(image_shape=(8, 8, 1), stem=4, widths=(8, 8)),
    "gan": gan.Config(image_shape=(8, 8, 1), latent_dim=6, channels=8),
    "vae": vae.Config(image_shape=(8, 8, 1), latent_dim=6, channels=8),
}
# A field that cannot be, for each family.
BROKEN = {
    "autoencoder": {"image_shape": (8, 8, 2)},
    "cnn": {"image_shape": (8, 8, 2)},
    "gan": {"image_shape": (8, 8, 2)},
    "vae": {"latent_dim": 0},
}


@functools.cache
def digits() -> DataSet:
    return data.load("digits")


# What each family learns from at that size.
DATA = {
    "autoencoder": digits,
    "cnn": digits,
    "gan": digits,
    "vae": digits,
}


def settings(**changes) -> config_lib.Data:
    """The `data` part of a configuration for `DATA`; the trainer does not look at its name."""
    return config_lib.Data(name="tiny", **{"batch_size": 16, "length": 8, **changes})


def batch(family: str, rows: int = 16):
    """The first training batch (x, y) of a family."""
    return next(iter(DATA[family]().train_batches(settings(batch_size=rows), seed=0)))
