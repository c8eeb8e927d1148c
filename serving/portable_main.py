"""Proves that a SavedModel runs without the code that made it: `python -m serving.portable_main <dir>`."""

import pathlib
import sys

from serving import lean_import


def main(argv: list[str]) -> int:
    """Prints each fault as a line `portable: …`; exit status 1 if there is one."""
    lean_import.import_tensorflow()
    # None in sys.modules makes every import of the name fail: the proof must not lean on Keras.
    sys.modules["keras"] = None  # type: ignore[assignment]
    from serving import portable

    found = portable.faults(pathlib.Path(argv[1]))
    for fault in found:
        print(f"portable: {fault}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
