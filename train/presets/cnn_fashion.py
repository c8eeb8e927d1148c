"""Classifier of Fashion-MNIST's 28x28 clothes.

python -m train.main --config=cnn_fashion --workdir=runs/cnn_fashion --data_dir=<dir with fashion_mnist/>

One core of AMD EPYC, 45 minutes: test accuracy 93.50 %.
"""

from train.config import Config
from train.data.pipeline import Augment
from train.presets import cnn_mnist

GATES = (
    "accuracy >= 0.93",
    "accuracy >= last - 0.003",
    "accuracy/* >= last - 0.03",
    "latency_p95_ms <= 100",
    "size_mb <= 3",
)


def get_config() -> Config:
    config = cnn_mnist.get_config()
    config.name = "cnn_fashion"
    config.data.name = "fashion_mnist"
    config.data.augment = Augment(flip=True, shift=2)
    config.model.label_smoothing = 0.1
    config.steps = 9360  # 20 epochs
    return config
