"""Language model of any text you have: songs, letters, code.

python -m train.main --config=rnn_lyrics --config.data.name=text:songs.txt --workdir=runs/songs

The file is UTF-8; a hundred thousand symbols are enough to begin with. With less, raise
--config.model.dropout or lower --config.steps, whichever first stops eval/loss from rising.
"""

from train.config import Config, Data, Optimizer, OptimizerName, Schedule
from zoo import rnn

GATES = (
    "nats_per_symbol <= last + 0.02",
    "longest_copied <= 60",
    "latency_p95_ms <= 500",
    "size_mb <= 5",
)


def get_config() -> Config:
    return Config(
        name="rnn_lyrics",
        family="rnn",
        model=rnn.Config(cell=rnn.Cell.GRU, units=256, layers=2, embedding=64, dropout=0.3),
        data=Data(name="text:lyrics.txt", batch_size=32, length=128),
        optimizer=Optimizer(
            name=OptimizerName.ADAMW,
            learning_rate=3e-3,
            weight_decay=0.05,
            schedule=Schedule.COSINE,
            warmup_steps=50,
        ),
        steps=1500,
        steps_per_execution=10,
        log_every=50,
        eval_every=250,
        preview_every=250,
        checkpoint_every=250,
    )
