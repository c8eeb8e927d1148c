"""Any TFDS image classification set: `tfds:<name>`, for example `tfds:cifar10`."""

import pathlib
import re
import socket
import sys
import urllib.parse
import urllib.request
from typing import Any

import numpy as np
import tensorflow as tf

from train.data.images import (
    ImageData,
    Images,
    check_fits_memory,
    resize_image,
    to_array,
    to_pil,
)
from zoo.errors import UserError


def load(name: str, data_dir: pathlib.Path | None, image_size: int | None) -> ImageData:
    """Loads a TFDS set with an image and a class label into memory; downloads it when needed.

    The test split is `test`, else `validation`; a set with `train` alone is cut 90/10 (TFDS
    shuffles when it prepares a set, so the tail is a fair sample).

    Args:
        name: TFDS name, with config and version if wanted: `cifar10`, `cifar10:3.0.2`.
        data_dir: where TFDS keeps prepared sets; `None`: its default.
        image_size: images are stretched to this; `None` needs images of one size.

    Raises:
        UserError: TFDS is not installed, does not know the set, cannot download it, or its files are
            damaged; it is not an image classification set, is too big or leaves a split empty; or
            images differ in size and `image_size` is None.
    """
    try:
        import tensorflow_datasets
    except ImportError as e:
        raise UserError(
            f"data set 'tfds:{name}' needs TFDS: pip install tensorflow-datasets"
        ) from e
    if not sys.stderr.isatty():
        tensorflow_datasets.disable_progress_bar()
    try:
        builder = tensorflow_datasets.builder(
            name, data_dir=None if data_dir is None else str(data_dir)
        )
        _check_reachable(builder)
        builder.download_and_prepare()
    except UserError:
        raise
    # TFDS raises many types: unknown name, no network, disk full, checksum, read-only folder.
    except Exception as e:
        raise UserError(f"TFDS cannot load '{name}': {_first_line(e)}") from e

    info = builder.info
    image_key, label_key = _keys(tensorflow_datasets, name, info)
    train_split, test_split = _split_names(name, info)

    def read(split: str) -> Images:
        count = info.splits[split].num_examples
        if count == 0:
            raise UserError(
                f"data set 'tfds:{name}': no image in split '{split}'; choose a larger set, or one with "
                f"its own test split"
            )
        try:
            dataset = builder.as_dataset(split=split, shuffle_files=False)
            rows = ((e[image_key], e[label_key]) for e in tensorflow_datasets.as_numpy(dataset))
            return _read(name, rows, count, image_size)
        except tf.errors.OpError as e:  # a missing, truncated or corrupt file
            raise UserError(
                f"TFDS cannot read split '{split}' of '{name}' ({_first_line(e)}); "
                f"delete {builder.data_path} to have it prepared anew"
            ) from e

    licence = info.redistribution_info.license if info.redistribution_info else ""
    data = ImageData(
        name=f"tfds:{name}",
        class_names=tuple(info.features[label_key].names),
        train=read(train_split),
        test=read(test_split),
        licence=licence or "unstated by TFDS; see the source",
        source=f"TFDS {info.full_name}, {info.homepage}",
    )
    if data.train.images.shape[1:] != data.test.images.shape[1:]:
        raise UserError(f"data set 'tfds:{name}': sizes differ between splits: set data.image_size")
    return data


def folder(name: str, data_dir: pathlib.Path | None) -> pathlib.Path:
    """Where TFDS keeps a set that it has prepared."""
    import tensorflow_datasets

    builder = tensorflow_datasets.builder(name, data_dir=None if data_dir is None else str(data_dir))
    return pathlib.Path(builder.data_path)


def _check_reachable(builder: Any) -> None:
    """Raises UserError if the set must be downloaded and its hosts cannot be resolved.

    Without this, TFDS retries for over three minutes before it says that there is no network.
    """
    if builder.is_prepared() or urllib.request.getproxies():
        return
    for host in {urllib.parse.urlsplit(url).hostname for url in builder.url_infos or ()}:
        try:
            socket.getaddrinfo(host, None)
        except OSError as e:
            raise UserError(
                f"TFDS must download '{builder.name}' but cannot reach {host}: {e.strerror}"
            ) from e


def _first_line(e: Exception) -> str:
    text = re.sub(r"\{\{.*?\}\} ?", "", str(e)).strip()  # TensorFlow's name of the failing node
    return f"{type(e).__name__}: {text.splitlines()[0] if text else ''}"


def _keys(tensorflow_datasets: Any, name: str, info: Any) -> tuple[str, str]:
    """The names of the image and the class label among the set's features."""
    keys = info.supervised_keys
    features = info.features
    if (
        keys is None
        or not isinstance(features[keys[0]], tensorflow_datasets.features.Image)
        or not isinstance(features[keys[1]], tensorflow_datasets.features.ClassLabel)
    ):
        raise UserError(
            f"'tfds:{name}' is no image classification set (features: {', '.join(features)}); "
            f"choose one with an image and a class label"
        )
    return keys[0], keys[1]


def _split_names(name: str, info: Any) -> tuple[str, str]:
    if "train" not in info.splits:
        raise UserError(f"'tfds:{name}' has no split 'train', only: {', '.join(info.splits)}")
    for split in ("test", "validation"):
        if split in info.splits:
            return "train", split
    return "train[:90%]", "train[90%:]"


def _read(name: str, rows: Any, count: int, image_size: int | None) -> Images:
    images = np.empty((0, 0, 0, 0), np.uint8)
    labels = np.empty(count, np.int32)
    n = 0
    for image, label in rows:
        if n == 0:
            height, width, channels = image.shape
            shape = (count, image_size or height, image_size or width, channels)
            check_fits_memory(f"tfds:{name}", shape)
            images = np.empty(shape, np.uint8)
        if image_size is not None:
            image = to_array(resize_image(to_pil(image), image_size))
        if image.shape != images.shape[1:]:
            raise UserError(
                f"data set 'tfds:{name}': images differ in size ({images.shape[1:]} and "
                f"{image.shape}): set data.image_size"
            )
        if label < 0:
            raise UserError(f"data set 'tfds:{name}': a split has no labels (label {label})")
        images[n], labels[n] = image, label
        n += 1
    return Images(images[:n], labels[:n])
