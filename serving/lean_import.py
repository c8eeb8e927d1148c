"""Imports TensorFlow alone, in two thirds of the time and less memory.

The last thing that `import tensorflow` does is to import Keras, for nothing but to have done it early; and
Keras imports scikit-learn with SciPy, where they are installed, for its wrappers. Neither a server nor the
proof of an export needs them. `tf.keras` is loaded as ever when it is first used.
"""

import gc
import sys


def import_tensorflow() -> None:
    """Has TensorFlow in `sys.modules`; Keras stays importable.

    Raises:
        ModuleNotFoundError: TensorFlow is not installed.
    """
    if "tensorflow" in sys.modules:
        return
    absent = "keras" not in sys.modules
    if absent:
        sys.modules["keras"] = None  # type: ignore[assignment] # makes every import of it fail
    collects = gc.isenabled()
    gc.disable()  # a million new objects, and all are to stay
    try:
        import tensorflow  # noqa: F401
    finally:
        if absent:
            del sys.modules["keras"]
        if collects:
            gc.enable()
