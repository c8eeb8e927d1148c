"""What every test shares: quiet TensorFlow with two logical CPU devices, and the real data."""

from __future__ import annotations

import os
import pathlib
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import tensorflow as tf

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow is first imported


def pytest_configure(config: pytest.Config) -> None:
    """Splits the CPU in two before TensorFlow initialises: MirroredStrategy tests need two."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real data beside the repository (`../shared/data`); skips without it."""
    folder = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data in {folder}")
    return folder


@pytest.fixture(scope="session")
def mirrored() -> tf.distribute.MirroredStrategy:
    """Two replicas on the two logical CPUs; one strategy for all tests of a process.

    TensorFlow numbers the collectives of every strategy from 100 on: a second one in the same process
    meets the first one's shapes.
    """
    from train import strategy

    return strategy.make("mirrored")
