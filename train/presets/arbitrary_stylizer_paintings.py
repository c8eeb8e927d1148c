"""Stylizer of any style, learnt on 3,306 pictures of six painting styles, 128x128, each painted in the style
of another.

python -m train.main --config=arbitrary_stylizer_paintings --workdir=runs/arbitrary_stylizer_paintings
--data_dir=<dir with paintings/> --config.model.vgg19_weights=<.h5 file>
"""

from train.config import Config, Data, Optimizer, OptimizerName, Schedule
from train.data.pipeline import Augment
from zoo import arbitrary_stylizer

GATES = (
    "gatys_loss <= last * 1.05",
    "latency_p95_ms <= 500",
    "size_mb <= 8",
)


def get_config() -> Config:
    return Config(
        name="arbitrary_stylizer_paintings",
        family="arbitrary_stylizer",
        model=arbitrary_stylizer.Config(),
        data=Data(name="paintings", image_size=128, batch_size=4, augment=Augment(flip=True)),
        optimizer=Optimizer(
            name=OptimizerName.MUON, learning_rate=6e-3, schedule=Schedule.COSINE, warmup_steps=100
        ),
        steps=10000,
        steps_per_execution=10,
        log_every=50,
        eval_every=2500,
        preview_every=1000,
        checkpoint_every=250,
    )
