"""Classifier of six painting styles, 128x128, on VGG19's features: only its head learns.

python -m train.main --config=cnn_paintings_vgg19 --workdir=runs/cnn_paintings_vgg19
--data_dir=<dir with paintings/> --config.model.vgg19_weights=<.h5 file>
"""

from train.config import Config, Data, Optimizer, OptimizerName, Schedule
from train.data.pipeline import Augment, Fill
from zoo import cnn, vgg19

GATES = (
    "accuracy >= 0.76",
    "accuracy >= last - 0.015",
    "accuracy/* >= last - 0.08",
    "latency_p95_ms <= 1000",
    "size_mb <= 104",
)


def get_config() -> Config:
    return Config(
        name="cnn_paintings_vgg19",
        family="cnn",
        model=cnn.Config(vgg19_weights=vgg19.IMAGENET, label_smoothing=0.1),
        data=Data(
            name="paintings",
            batch_size=32,
            augment=Augment(flip=True, shift=12, zoom=0.15, fill=Fill.REFLECT),
        ),
        optimizer=Optimizer(
            name=OptimizerName.ADAMW,
            learning_rate=2e-3,
            weight_decay=0.05,
            schedule=Schedule.COSINE,
            warmup_steps=20,
        ),
        steps=824,  # 8 epochs
        steps_per_execution=2,
        log_every=4,
        eval_every=412,
        preview_every=412,
        checkpoint_every=100,
    )
