"""Conditional GAN on MNIST.

python -m train.main --config=gan_mnist --workdir=runs/gan_mnist --data_dir=<dir with mnist/>

One core of AMD EPYC, 17 minutes: FD feat 1.92, recall .803, agreement .994.
"""

from train.config import Config, Data, Optimizer, Schedule
from zoo import gan

GATES = (
    "fd_feat <= 2.4",
    "fd_feat <= last * 1.1",
    "recall >= 0.77",
    "agreement >= 0.985",
    "near_copies <= 0.02",
    "nearest_train_ratio >= 0.9",
    "latency_p95_ms <= 100",
    "size_mb <= 7",
)


def get_config() -> Config:
    return Config(
        name="gan_mnist",
        family="gan",
        model=gan.Config(channels=64),
        data=Data(name="mnist", batch_size=64),
        optimizer=Optimizer(learning_rate=4e-4, beta_1=0.5, schedule=Schedule.LINEAR_TAIL),
        steps=5000,
        eval_every=1000,
    )
