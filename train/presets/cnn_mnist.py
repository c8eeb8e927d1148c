"""Classifier of MNIST's 28x28 digits.

python -m train.main --config=cnn_mnist --workdir=runs/cnn_mnist --data_dir=<dir with mnist/>

2 cores of AMD EPYC, 19 minutes while another training shared them: test accuracy 99.56 %.
"""

from train.config import Config, Data, Optimizer, OptimizerName, Schedule
from train.data.pipeline import Augment
from zoo import cnn

GATES = (
    "accuracy >= 0.994",
    "accuracy >= last - 0.001",
    "accuracy/* >= 0.985",
    "latency_p95_ms <= 100",
    "size_mb <= 3",
)


def get_config() -> Config:
    return Config(
        name="cnn_mnist",
        family="cnn",
        model=cnn.Config(stem=32, widths=(64, 128), label_smoothing=0.05),
        data=Data(name="mnist", batch_size=128, augment=Augment(shift=2, rotate=10.0, zoom=0.1)),
        optimizer=Optimizer(
            name=OptimizerName.ADAMW,
            learning_rate=3e-3,
            weight_decay=0.02,
            schedule=Schedule.COSINE,
            warmup_steps=200,
        ),
        steps=4680,  # 10 epochs
        eval_every=1000,
    )
