"""Language model of Shakespeare's plays.

python -m train.main --config=rnn_shakespeare --workdir=runs/rnn_shakespeare \\
    --data_dir=<dir with tinyshakespeare/>

2 shared cores of a Xeon at 2.5 GHz, 19 minutes: 1.446 nats a symbol on the last tenth of the text.
"""

from train.config import Config, Data, Optimizer, OptimizerName, Schedule
from zoo import rnn

GATES = (
    "nats_per_symbol <= 1.47",
    "nats_per_symbol <= last + 0.01",
    "longest_copied <= 40",
    "latency_p95_ms <= 500",
    "size_mb <= 9",
)


def get_config() -> Config:
    return Config(
        name="rnn_shakespeare",
        family="rnn",
        model=rnn.Config(cell=rnn.Cell.GRU, units=384, layers=2, embedding=64, dropout=0.2),
        data=Data(name="tinyshakespeare", batch_size=32, length=128),
        optimizer=Optimizer(
            name=OptimizerName.ADAMW,
            learning_rate=3e-3,
            weight_decay=0.05,
            schedule=Schedule.COSINE,
            warmup_steps=100,
        ),
        steps=2000,
        steps_per_execution=10,
        log_every=50,
        eval_every=500,
        preview_every=1000,
        checkpoint_every=500,
    )
