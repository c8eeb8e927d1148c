"""Conditional GAN on Fashion-MNIST.

python -m train.main --config=gan_fashion --workdir=runs/gan_fashion --data_dir=<dir with fashion_mnist/>

2 cores of AMD EPYC, 22 minutes while another training shared them: FD feat 2.52, recall .724,
agreement .896.
"""

from train.config import Config
from train.presets import gan_mnist


def get_config() -> Config:
    config = gan_mnist.get_config()
    config.name = "gan_fashion"
    config.data.name = "fashion_mnist"
    return config
