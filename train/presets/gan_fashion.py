"""Conditional GAN on Fashion-MNIST.

python -m train.main --config=gan_fashion --workdir=runs/gan_fashion --data_dir=<dir with fashion_mnist/>

One core of AMD EPYC, 26 minutes: FD feat 2.15, recall .790, agreement .920.
"""

from train.config import Config
from train.presets import gan_mnist

GATES = (
    "fd_feat <= 2.6",
    "fd_feat <= last * 1.1",
    "recall >= 0.75",
    "agreement >= 0.9",
    "near_copies <= 0.02",
    "nearest_train_ratio >= 0.9",
    "latency_p95_ms <= 100",
    "size_mb <= 7",
)


def get_config() -> Config:
    config = gan_mnist.get_config()
    config.name = "gan_fashion"
    config.data.name = "fashion_mnist"
    config.model.stretch = 1.05
    config.steps = 8000
    return config
