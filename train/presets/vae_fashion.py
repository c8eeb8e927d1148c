"""VAE on Fashion-MNIST, of its 256 levels of grey.

python -m train.main --config=vae_fashion --workdir=runs/vae_fashion --data_dir=<dir with fashion_mnist/>

2 shared cores of a Xeon at 2.5 GHz, 15 minutes: -ELBO 1851.4 nats (3.41 bits for each number),
importance weighted 1821.9 (500 samples).
"""

from train.config import Config
from train.presets import vae_mnist
from zoo import vae

GATES = (
    "negative_elbo <= 1870",
    "negative_elbo <= last + 5",
    "near_copies <= 0.02",
    "nearest_train_ratio >= 0.9",
    "latency_p95_ms <= 100",
    "size_mb <= 10",
)


def get_config() -> Config:
    config = vae_mnist.get_config()
    config.name = "vae_fashion"
    config.data.name = "fashion_mnist"
    config.model.likelihood = vae.Likelihood.LOGISTIC
    config.steps = 6000
    config.preview_every = 3000
    return config
