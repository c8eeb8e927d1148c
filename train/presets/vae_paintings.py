"""VAE on six painting styles, 64x64, of their 256 levels of red, green and blue.

python -m train.main --config=vae_paintings --workdir=runs/vae_paintings --data_dir=<dir with paintings/>

2 shared cores of a Xeon at 2.5 GHz, 26 minutes: -ELBO 51,831 nats (6.09 bits for each number), FD on
features 35.0 (real images: 0.8). It reconstructs well; its samples are textures in a painting's colours: the
prior lets the places of the map know nothing of each other.
"""

from train.config import Config, Data, Optimizer, Schedule
from train.data.pipeline import Augment
from zoo import vae

GATES = (
    "bits_per_dim <= 6.2",
    "negative_elbo <= last + 50",
    "near_copies <= 0.02",
    "nearest_train_ratio >= 0.9",
    "latency_p95_ms <= 100",
    "size_mb <= 9",
)


def get_config() -> Config:
    return Config(
        name="vae_paintings",
        family="vae",
        model=vae.Config(
            image_shape=(64, 64, 3),
            likelihood=vae.Likelihood.LOGISTIC,
            latent_dim=256,
            hidden=0,
            channels=24,
            max_channels=128,
        ),
        data=Data(name="paintings", image_size=64, batch_size=32, augment=Augment(flip=True, zoom=0.1)),
        optimizer=Optimizer(learning_rate=2e-3, schedule=Schedule.COSINE, warmup_steps=200),
        steps=10_000,
        steps_per_execution=25,
        eval_every=1000,
    )
