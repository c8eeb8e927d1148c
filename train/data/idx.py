"""MNIST and Fashion-MNIST from their original idx files, or from TFDS when these are absent.

The idx format (http://yann.lecun.com/exdb/mnist/): big-endian int32 magic (0x00000803 for images,
0x00000801 for labels), one int32 per dimension, then the bytes.
"""

import dataclasses
import gzip
import pathlib
import zlib

import numpy as np

from train.data import tfds
from train.data.images import ImageData, Images, resize
from zoo.errors import UserError


@dataclasses.dataclass(frozen=True)
class IdxSet:
    """The facts of one data set kept as four idx files; `name` is its name in TFDS, too."""

    name: str
    class_names: tuple[str, ...]
    licence: str
    source: str


MNIST = IdxSet(
    name="mnist",
    class_names=tuple(str(k) for k in range(10)),
    licence="CC BY-SA 3.0, as usually cited",
    source="LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist/",
)
FASHION_MNIST = IdxSet(
    name="fashion_mnist",
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    licence="MIT, (c) 2017 Zalando SE",
    source="Xiao, Rasul, Vollgraf 2017, https://arxiv.org/abs/1708.07747",
)
_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def load(facts: IdxSet, data_dir: pathlib.Path | None, image_size: int | None) -> ImageData:
    """Loads `facts.name` from idx files (raw or .gz), else by TFDS; uint8 [N, 28, 28, 1].

    The files are looked for in `<data_dir>/<name>/`, then in `<data_dir>/` itself.

    Raises:
        UserError: a file is truncated, corrupt, empty or missing beside its siblings; `image_size` is
            too big for the memory; or there is no file and TFDS cannot provide the set either.
    """
    folder = _find(facts.name, data_dir)
    if folder is None:
        return _load_from_tfds(facts, data_dir, image_size)
    train_images, train_labels, test_images, test_labels = (_read(folder, f) for f in _FILES)
    splits = []
    for images, labels, what in (
        (train_images, train_labels, "train"),
        (test_images, test_labels, "t10k"),
    ):
        if len(images) != len(labels):
            raise UserError(
                f"data set '{facts.name}' in {folder}: {len(images)} {what} images but "
                f"{len(labels)} labels; get the four original files again"
            )
        if not len(labels):
            raise UserError(
                f"data set '{facts.name}' in {folder}: no {what} images; get the four original files again"
            )
        if labels.max() >= len(facts.class_names):
            raise UserError(
                f"data set '{facts.name}' in {folder}: {what} label {labels.max()} is outside "
                f"0..{len(facts.class_names) - 1}; get the four original files again"
            )
        resized = resize(facts.name, images[..., None], image_size)
        splits.append(Images(resized, labels.astype(np.int32)))
    return ImageData(
        name=facts.name,
        class_names=facts.class_names,
        train=splits[0],
        test=splits[1],
        licence=facts.licence,
        source=facts.source,
    )


def files(facts: IdxSet, data_dir: pathlib.Path | None) -> tuple[pathlib.Path, ...]:
    """The set's idx files that are there."""
    folder = _find(facts.name, data_dir)
    found = () if folder is None else (_path(folder, file) for file in _FILES)
    return tuple(path for path in found if path is not None)


def _find(name: str, data_dir: pathlib.Path | None) -> pathlib.Path | None:
    """The folder that holds the set's files, if any of them is there."""
    if data_dir is None:
        return None
    for folder in (data_dir / name, data_dir):
        if any(_path(folder, f) for f in _FILES):
            return folder
    return None


def _path(folder: pathlib.Path, file: str) -> pathlib.Path | None:
    for path in (folder / file, folder / f"{file}.gz"):
        if path.is_file():
            return path
    return None


def _read(folder: pathlib.Path, file: str) -> np.ndarray:
    """Reads one idx file of uint8: [N, H, W] or [N]."""
    path = _path(folder, file)
    if path is None:
        raise UserError(f"{folder} has no {file} or {file}.gz beside its other idx files; add it")
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as e:
        raise UserError(f"{path}: truncated or corrupt file ({e}); get it again") from e
    rank = 3 if "idx3" in file else 1
    start = 4 + 4 * rank
    header = data[:start].ljust(start, b"\0")
    magic, *shape = (int(v) for v in np.frombuffer(header, ">i4"))
    if magic != 0x0800 + rank:
        raise UserError(
            f"{path}: truncated or corrupt file (no idx header 0x{0x0800 + rank:08x}); get it again"
        )
    if len(data) - start != np.prod(shape):
        raise UserError(
            f"{path}: truncated or corrupt file ({len(data) - start} bytes after the header, which "
            f"says {' x '.join(map(str, shape))}); get it again"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _load_from_tfds(
    facts: IdxSet, data_dir: pathlib.Path | None, image_size: int | None
) -> ImageData:
    try:
        data = tfds.load(facts.name, data_dir, image_size)
    except UserError as e:
        where = f"in {data_dir / facts.name} or {data_dir}" if data_dir else "(no --data_dir given)"
        raise UserError(
            f"data set '{facts.name}': no idx files {where}, and TFDS cannot provide it ({e}). "
            f"Either put {', '.join(f'{f}.gz' for f in _FILES)} into <data_dir>/{facts.name}/, or "
            f"run once where TFDS can download"
        ) from e
    return dataclasses.replace(
        data, name=facts.name, class_names=facts.class_names, licence=facts.licence
    )
