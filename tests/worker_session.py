"""One worker of a cluster trains tiny families in turn: `worker_session.py <workdirs> gan vae`."""

import pathlib
import sys

import tiny

from train import loop, strategy

made = strategy.make("multi_worker")
for family in sys.argv[2:]:
    loop.train(tiny.config(family), pathlib.Path(sys.argv[1], family), tiny.DATA[family](), made)
