"""Classifier of six painting styles, 128x128, from scratch.

python -m train.main --config=cnn_paintings --workdir=runs/cnn_paintings --data_dir=<dir with paintings/>

2 cores of AMD EPYC, 33 minutes while another training shared them: test accuracy 78.3 %.
"""

from train.config import Config, Data, Optimizer, OptimizerName, Schedule
from train.data.pipeline import Augment, Fill
from zoo import cnn

GATES = (
    "accuracy >= 0.76",
    "accuracy >= last - 0.015",
    "accuracy/* >= last - 0.08",
    "latency_p95_ms <= 100",
    "size_mb <= 6",
)


def get_config() -> Config:
    return Config(
        name="cnn_paintings",
        family="cnn",
        model=cnn.Config(stem=24, stem_stride=2, widths=(32, 64, 128, 192), label_smoothing=0.1),
        data=Data(
            name="paintings",
            batch_size=64,
            augment=Augment(flip=True, shift=12, zoom=0.15, erase=0.25, fill=Fill.REFLECT),
        ),
        optimizer=Optimizer(
            name=OptimizerName.ADAMW,
            learning_rate=2e-3,
            weight_decay=0.05,
            schedule=Schedule.COSINE,
            warmup_steps=200,
        ),
        steps=4080,  # 80 epochs
        steps_per_execution=10,
        log_every=51,
        eval_every=510,
        preview_every=2040,
        checkpoint_every=510,
    )
