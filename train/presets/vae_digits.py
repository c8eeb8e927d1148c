"""VAE on scikit-learn's 8x8 digits, drawn black or white: seconds, needs no file.

python -m train.main --config=vae_digits --workdir=runs/vae_digits

2 cores, a minute while tests shared them: -ELBO 23.8 nats an image, of which KL 4.7. Without free bits the
code says nothing at all (27.3, KL 0): an image of 64 noisy pixels pays little for it at first.
"""

from train.config import Config, Data, Optimizer, Schedule
from zoo import vae

GATES = (
    "negative_elbo <= 25",
    "negative_elbo <= last + 0.5",
    "near_copies <= 0.02",
    "nearest_train_ratio >= 0.9",
    "latency_p95_ms <= 100",
    "size_mb <= 3",
)


def get_config() -> Config:
    return Config(
        name="vae_digits",
        family="vae",
        model=vae.Config(latent_dim=16, channels=32, hidden=128, free_bits=0.1),
        data=Data(name="digits", batch_size=64),
        optimizer=Optimizer(learning_rate=2e-3, schedule=Schedule.COSINE),
        steps=1500,
    )
