"""One worker of a cluster trains every tiny family in turn: `python tests/worker_session.py <workdirs>`."""

import pathlib
import sys

import tiny

from train import loop, strategy

made = strategy.make("multi_worker")
for family in sorted(tiny.CONFIGS):
    loop.train(tiny.config(family), pathlib.Path(sys.argv[1], family), tiny.DATA[family](), made)
