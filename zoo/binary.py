"""What the absl binaries of train and of the exporter share: the way they start and fail."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

from absl import app, flags, logging

from zoo.errors import UserError

# TensorFlow reads this when it is imported: its start-up chatter is nothing a user can act on.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_OWN = {"serving", "train", "zoo"}
_NOT_INSTALLED = 1


@contextlib.contextmanager
def needs(extra: str) -> Iterator[None]:
    """Around imports that only an extra of this package brings: without it, one line and exit status 1."""
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not missing or missing in _OWN:
            raise
        print(f"error: this needs {missing}: pip install 'atelier[{extra}]'", file=sys.stderr)
        sys.exit(_NOT_INSTALLED)


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with one line for a mistake instead of two and a hint at --helpfull."""
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError(str(error).splitlines()[0]) from error


def run(
    main: Callable[[list[str]], None],
    parser: Callable[[list[str]], list[str]] = parse_flags,
    positional: tuple[str, ...] = (),
) -> None:
    """Runs an absl `main`; a mistake a person can mend is one line and exit status 2.

    Args:
        main: gets the program's name and its positional arguments.
        positional: what these are called; each one is required, and no other is taken.
    """

    def checked(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        given = argv[1:]
        if len(given) > len(positional):
            raise UserError(
                f"unexpected argument {given[len(positional)]!r}; flags are written --name=value"
            )
        if len(given) < len(positional):
            raise UserError(f"<{positional[len(given)]}> is missing; --help shows how to call this")
        main(argv)

    try:
        app.run(checked, flags_parser=parser)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
