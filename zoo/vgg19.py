"""VGG19's features: the yardstick of style transfer, not a family that trains by itself.

Simonyan & Zisserman 2014, "Very Deep Convolutional Networks for Large-Scale Image Recognition"
(arXiv:1409.1556), configuration E without its classifier. Layers carry Keras' names, block1_conv1 to
block5_conv4; the weights are Keras' too.
"""

import contextlib
import enum
import os
import pathlib
from collections.abc import Iterable, Iterator

import h5py
import keras
import numpy as np
import tensorflow as tf
from absl import logging

from zoo import winograd
from zoo.errors import UserError

BLOCKS = {1: (2, 64), 2: (2, 128), 3: (4, 256), 4: (4, 512), 5: (4, 512)}  # convolutions, feature maps
LAYERS = tuple(f"block{b}_conv{c}" for b, (count, _) in BLOCKS.items() for c in range(1, count + 1))
MEAN = (103.939, 116.779, 123.68)  # of ImageNet: blue, green, red, 0..255

IMAGENET, RANDOM = "imagenet", "random"  # what `weights` may be instead of a file
FILE = "vgg19_weights_tf_dim_ordering_tf_kernels_notop.h5"  # in Keras' cache


class Pooling(enum.StrEnum):
    """Between the blocks. Gatys et al. found averages smoother; the network was trained with maxima."""

    MAX = "max"
    AVERAGE = "average"


# Networks ---------------------------------------------------------------------------------------


class Preprocess(keras.layers.Layer):
    """RGB `[B, H, W, 3]` in `[0, 1]` → BGR in 0..255 less ImageNet's mean, in float32."""

    def __init__(self, **options):
        super().__init__(dtype="float32", **options)

    def call(self, image: tf.Tensor) -> tf.Tensor:
        return tf.reverse(image, [-1]) * 255.0 - tf.constant(MEAN)


class Convolution(keras.layers.Conv2D):
    """One of 3x3, which is faster once its network is `prepared`."""

    transformed: tf.Tensor | None = None

    def transform(self) -> None:
        self.transformed = winograd.transform(tf.cast(self.kernel, tf.float32))

    def convolution_op(self, inputs: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        if self.transformed is None:
            return super().convolution_op(inputs, kernel)
        return tf.cast(winograd.conv2d(tf.cast(inputs, tf.float32), self.transformed), self.compute_dtype)


def features(
    layers: Iterable[str],
    weights: str = IMAGENET,
    pooling: Pooling = Pooling.MAX,
    dtype: str = "float32",
) -> keras.Model:
    """RGB `[B, H, W, 3]` in `[0, 1]`, any size → feature maps by layer name.

    `features(["block4_conv2"])(image)` is `{"block4_conv2": [B, H/8, W/8, 512]}`.
    Nothing past the deepest layer asked for is built. The weights are frozen.

    Args:
        layers: names from `LAYERS`.
        weights: a .h5 file of Keras' VGG19, with or without its classifier; `"imagenet"`: the one in
            Keras' cache; `"random"`: none at all, for tests.
        dtype: `"float32"`, or `"bfloat16"` for weights and features: for CPUs that compute in it; others
            take twice as long (`make bench-style`). What is `prepared` convolves in float32 all the same.

    Raises:
        ValueError: a layer is unknown.
        UserError: the weights are missing, damaged or another network's.
    """
    wanted = list(layers)
    for name in wanted:
        if name not in LAYERS:
            raise ValueError(f"VGG19 has no layer {name!r}; its layers are {', '.join(LAYERS)}")
    needed = LAYERS[: max(map(LAYERS.index, wanted)) + 1]
    pool = keras.layers.MaxPooling2D if pooling == Pooling.MAX else keras.layers.AveragePooling2D

    image = keras.Input((None, None, 3), name="image", dtype="float32")
    x = Preprocess(name="preprocess")(image)
    outputs = {}
    for index, name in enumerate(needed):
        block = int(name[5])
        if name.endswith("conv1") and block > 1:
            x = pool(2, name=f"block{block - 1}_pool", dtype=dtype)(x)
        x = outputs[name] = Convolution(
            BLOCKS[block][1],
            3,
            padding="same",
            activation="relu",
            name=name,
            dtype=dtype,
            kernel_initializer=keras.initializers.HeNormal(seed=index),
        )(x)
    model = keras.Model(image, {name: outputs[name] for name in wanted}, name="vgg19")
    if weights == RANDOM:
        logging.warning("VGG19 HAS RANDOM WEIGHTS: what it sees means nothing. This is for tests alone.")
    else:
        for name, (kernel, bias) in _read(_locate(weights), needed).items():
            model.get_layer(name).set_weights([kernel, bias])
    model.trainable = False
    return model


_MANY = 256  # feature maps: from so many on, Winograd's convolution is the faster one


def prepared(model: keras.Model) -> keras.Model:
    """The same `features`, from now on in two thirds of the time on a CPU: 200 MB for Gatys' layers.

    Its weights are not to change any more, and it is not to be exported: that would store them again.
    """
    for layer in _slow(model):
        if layer.transformed is None:
            layer.transform()
    return model


@contextlib.contextmanager
def prepared_in_graph(model: keras.Model) -> Iterator[None]:
    """`prepared` for as long as the block lasts: in a `tf.function`, which transforms the weights anew at
    each call, for a loop that uses them often. So does an export of it, wherever that will run."""
    slow = [(layer, layer.transformed) for layer in _slow(model)]
    try:
        for layer, _ in slow:
            layer.transform()
        yield
    finally:
        for layer, before in slow:
            layer.transformed = before


def _slow(model: keras.Model) -> list[Convolution]:
    if any(device.device_type != "CPU" for device in tf.config.list_logical_devices()):
        return []  # their own libraries do as much
    return [layer for layer in model.layers if isinstance(layer, Convolution) and layer.filters >= _MANY]


def stride(layer: str) -> int:
    """Pixels of the image from one output of a layer to the next: `stride("block4_conv2")` is 8."""
    return 2 ** (int(layer[5]) - 1)


def margin(layer: str) -> int:
    """How far from an output of a layer, in pixels of the image, an input can still change it; rounded up to
    whole outputs. `margin("block5_conv1")` is 96."""
    reach, step = 0, 1
    for name in LAYERS[: LAYERS.index(layer) + 1]:
        if name.endswith("conv1") and name != "block1_conv1":
            reach, step = reach + step, 2 * step  # a pool looks one pixel of its input further
        reach += step
    return -(-reach // step) * step


# Weights ----------------------------------------------------------------------------------------


def _locate(weights: str) -> pathlib.Path:
    if weights != IMAGENET:
        path = pathlib.Path(weights).expanduser()
        if not path.is_file():
            raise UserError(f"there is no file of VGG19 weights {path}; {_remedy()}")
        return path
    path = _cached()
    if not path.is_file():
        raise UserError(f"VGG19's ImageNet weights are not at {path}; {_remedy()}")
    return path


def _cached() -> pathlib.Path:
    return pathlib.Path(os.environ.get("KERAS_HOME", "~/.keras"), "models", FILE).expanduser()


def _remedy() -> str:
    return (
        "download them (80 MB) with: python -c 'import keras; keras.applications.VGG19(include_top=False)',"
        " or name a file of them by --vgg19_weights=<path>"
    )


def _read(path: pathlib.Path, names: Iterable[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kernel `[3, 3, in, out]` and bias `[out]` of each layer, float32."""
    found = {}
    channels = 3
    try:
        with h5py.File(path) as file:
            root = file.get("model_weights", file)
            for name in names:
                group = root[name]
                kernel, bias = (
                    np.asarray(group[w if isinstance(w, str) else w.decode()], np.float32)
                    for w in group.attrs["weight_names"]
                )
                width = BLOCKS[int(name[5])][1]
                if kernel.shape != (3, 3, channels, width) or bias.shape != (width,):
                    raise ValueError(f"{name} has shapes {kernel.shape} and {bias.shape}")
                if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
                    raise ValueError(f"{name} holds numbers that are not finite")
                found[name] = kernel, bias
                channels = width
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        reason = str(error).strip("'\"").splitlines()[0]
        raise UserError(f"{path} holds no whole VGG19 in Keras' format ({reason}); {_remedy()}") from error
    return found
