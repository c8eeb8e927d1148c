"""Runs `python -m <module>` again and again in forks of one process that has imported TensorFlow once.

Started by `binaries.start_main`. Reads JSON objects, one a line, and answers each with a number: to a module
with its flags, folder, files for stdout and stderr, and seconds after which SIGALRM ends it, the process that
runs it; to `wait`, such a process, its exit status, negative for a signal, as `subprocess` has it.
"""

import json
import os
import runpy
import signal
import sys
import traceback

# What every binary imports; a fork then starts in no time. No module of ours: `__main__` defines flags.
import keras  # noqa: F401
import tensorflow as tf  # noqa: F401


def run(task: dict) -> None:
    """In the fork; never returns."""
    status = 1
    try:
        signal.alarm(task["seconds"])
        os.chdir(task["folder"])
        for descriptor, name in ((0, os.devnull), (1, task["stdout"]), (2, task["stderr"])):
            opened = os.open(name, os.O_RDWR)
            os.dup2(opened, descriptor)
            os.close(opened)
        sys.stdin, sys.stdout, sys.stderr = (os.fdopen(d, "rw"[d > 0], closefd=False) for d in range(3))
        sys.argv = [task["module"], *task["flags"]]
        sys.path[0] = task["folder"]
        runpy.run_module(task["module"], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


for line in sys.stdin:
    task = json.loads(line)
    if "wait" in task:
        print(os.waitstatus_to_exitcode(os.waitpid(task["wait"], 0)[1]), flush=True)
        continue
    child = os.fork()
    if child == 0:
        run(task)
    print(child, flush=True)
