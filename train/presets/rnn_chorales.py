"""Four-part chorales, learnt from Bach's.

python -m train.main --config=rnn_chorales --workdir=runs/rnn_chorales --data_dir=<dir with jsb_chorales/>

2 cores of an Intel Xeon shared with other trainings, 16 minutes (about 500 CPU seconds): 4.500 nats a quarter
note on the test pieces. For comparison: 88 independent keys 11.06, RNN-RBM 6.27, RNN-NADE 5.56
(Boulanger-Lewandowski 2012, table 1).
"""

from train.config import Config, Data, Optimizer, Schedule
from zoo import chorales

GATES = (
    "nll <= 4.6",
    "nll <= last + 0.03",
    "copied <= 16",
    "latency_p95_ms <= 500",
    "size_mb <= 6",
)


def get_config() -> Config:
    return Config(
        name="rnn_chorales",
        family="chorales",
        model=chorales.Config(embedding=32, units=256, hidden=256, dropout=0.25),
        data=Data(name="jsb_chorales", batch_size=32, length=64),
        optimizer=Optimizer(learning_rate=3e-3, schedule=Schedule.COSINE, warmup_steps=50),
        steps=1800,
        eval_every=300,
        preview_every=900,
        checkpoint_every=300,
    )
