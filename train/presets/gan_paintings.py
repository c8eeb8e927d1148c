"""Conditional GAN on six painting styles, 64x64.

python -m train.main --config=gan_paintings --workdir=runs/gan_paintings --data_dir=<dir with paintings/>

3,306 pictures are few: differentiable augmentation keeps the discriminator from learning them by heart.

One core of AMD EPYC, 23 minutes: FD feat 6.1 (real images 0.8): palettes and brush-work, few objects.
"""

from train.config import Config, Data, Optimizer, Schedule
from train.data.pipeline import Augment
from zoo import gan

GATES = (
    "fd_feat <= 7",
    "fd_feat <= last * 1.1",
    "recall >= 0.48",
    "near_copies <= 0.02",
    "nearest_train_ratio >= 0.9",
    "latency_p95_ms <= 100",
    "size_mb <= 8",
)


def get_config() -> Config:
    return Config(
        name="gan_paintings",
        family="gan",
        model=gan.Config(latent_dim=96, channels=32, max_channels=128, augment=True),
        data=Data(name="paintings", image_size=64, batch_size=32, augment=Augment(flip=True)),
        optimizer=Optimizer(learning_rate=2e-4, beta_1=0.5, schedule=Schedule.LINEAR_TAIL),
        steps=4500,
        steps_per_execution=25,
        eval_every=1500,
    )
