"""Imports TensorFlow alone, in two thirds of the time and less memory.

The last thing that `import tensorflow` does is to import Keras, for nothing but to have done it early; and
Keras imports scikit-learn with SciPy, where they are installed, for its wrappers. Neither a server nor the
proof of an export needs them. `tf.keras` is loaded as ever when it is first used.
"""

import gc
import sys

_EARLY = "keras.src.optimizers"  # what TensorFlow asks for


def import_tensorflow() -> None:
    """Has TensorFlow in `sys.modules`; Keras stays importable.

    Raises:
        ModuleNotFoundError: TensorFlow is not installed.
    """
    if "tensorflow" in sys.modules:
        return
    absent = _EARLY not in sys.modules
    if absent:
        sys.modules[_EARLY] = None  # type: ignore[assignment] # makes its import fail, which is let pass
    collects = gc.isenabled()
    gc.disable()  # a million new objects, and all are to stay
    try:
        import tensorflow  # noqa: F401
    finally:
        if absent:
            del sys.modules[_EARLY]
        if collects:
            gc.enable()
