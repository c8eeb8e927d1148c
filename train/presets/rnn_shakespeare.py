"""Language model of Shakespeare's plays.

python -m train.main --config=rnn_shakespeare --workdir=runs/rnn_shakespeare --data_dir=<dir with tinyshakespeare/>
"""

from train.config import Config, Data, Optimizer, OptimizerName, Schedule
from zoo import rnn


def get_config() -> Config:
    return Config(
        name="rnn_shakespeare",
        family="rnn",
        model=rnn.Config(cell=rnn.Cell.GRU, units=448, layers=2, embedding=64, dropout=0.25),
        data=Data(name="tinyshakespeare", batch_size=64, length=128),
        optimizer=Optimizer(
            name=OptimizerName.ADAMW,
            learning_rate=4e-3,
            weight_decay=0.01,
            schedule=Schedule.COSINE,
            warmup_steps=50,
        ),
        steps=3000,
        steps_per_execution=10,
        log_every=50,
        eval_every=250,
        preview_every=500,
        checkpoint_every=250,
    )
