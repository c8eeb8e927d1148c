"""Puts exports in front of users, and takes them back.

    python -m serving.push_main push <candidates>/<model>/<version> --base_dir=served [--label=canary]
    python -m serving.push_main promote <model> --base_dir=served     # the canary becomes stable
    python -m serving.push_main rollback <model> --base_dir=served    # without the canary, or a version back
    python -m serving.push_main history <model> --base_dir=served     # the audit log
    (or atelier-push ...)
"""

import pathlib
import signal
import sys

from absl import flags

from zoo import binary
from zoo.errors import UserError

_BASE_DIR = flags.DEFINE_string("base_dir", None, "The folder of models that is served.", required=True)
_LABEL = flags.DEFINE_enum(
    "label", "stable", ["stable", "canary"], "Of a pushed version; a canary is served beside the stable one."
)
_FORCE = flags.DEFINE_boolean(
    "force", False, "Push what is not blessed, or breaks the clients of the version that is served."
)
_REASON = flags.DEFINE_string("reason", "", "Why: the audit log keeps it. --force needs it.")
_ENGINE = flags.DEFINE_enum(
    "engine", "embedded", ["embedded", "tfserving"], "The server that has to run the candidate first."
)
_SERVERS = flags.DEFINE_list(
    "servers",
    [],
    "host:port of the running servers that follow <base_dir>/models.config: each step waits for all of them.",
)
_SETTLE_SECONDS = flags.DEFINE_float(
    "settle_seconds",
    5.0,
    "Without --servers: how long servers may take to follow a change. More than their "
    "--model_config_file_poll_wait_seconds and the time to load a version.",
    lower_bound=0.0,
)

_TERMINATED = 128 + signal.SIGTERM  # as shells report it
_COMMANDS = ("push", "promote", "rollback", "history")


def main(arguments: list[str]) -> None:
    _, command, subject = arguments
    if command not in _COMMANDS:
        raise UserError(f"unknown command {command!r}: expected one of {', '.join(_COMMANDS)}")
    reason = _REASON.value.strip()
    if _FORCE.value and not reason:
        raise UserError('--force needs --reason="...": the audit log keeps it')
    from serving import audit, push

    # Not a sudden death: the server that validates would outlive it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    base = push.Base(pathlib.Path(_BASE_DIR.value), _SERVERS.value, _SETTLE_SECONDS.value, _say)
    if command == "push":
        base.push(pathlib.Path(subject), _LABEL.value, _ENGINE.value, reason, _FORCE.value)
    elif command == "promote":
        base.promote(subject, reason)
    elif command == "rollback":
        base.rollback(subject, reason)
    else:
        entries, torn = base.history()
        for line in torn:
            print(f"line {line} of {audit.FILE} was cut short, by a crash most likely", file=sys.stderr)
        found = [entry for entry in entries if entry.model == subject]
        if not found:
            known = ", ".join(sorted({entry.model for entry in entries})) or "none"
            raise UserError(f"{_BASE_DIR.value}/{audit.FILE} has nothing on {subject!r}; it has {known}")
        print(audit.table(found))


def _say(text: str) -> None:
    print(text, flush=True)


def run() -> None:
    """The console script."""
    with binary.needs("serve"):
        binary.run(main, positional=("|".join(_COMMANDS), "export or model"))


if __name__ == "__main__":
    run()
