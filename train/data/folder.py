"""Images on disk: a folder per class, or a flat folder (one class), or a labels.csv.

    root/cat/1.jpg root/dog/2.png       class = first folder below the root
    root/1.jpg root/2.jpg               flat: one class, named as the folder
    root/labels.csv                     columns: file, one of style|label|class, split (optional)

Broken files are named in a warning and left out.
"""

import csv
import dataclasses
import hashlib
import os
import pathlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from absl import logging
from PIL import Image, ImageOps

from train.data.images import ImageData, Images, check_fits_memory, resize_image, to_array
from zoo.errors import UserError

_EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"}
_LABEL_COLUMNS = ("style", "label", "class")
_TEST_FRACTION = 0.1
_EXIF_ORIENTATION = 0x0112


@dataclasses.dataclass(frozen=True)
class _File:
    path: str  # relative to the root, with /
    label: str
    split: str | None  # "train", "test", or None: by hash of the path


@dataclasses.dataclass(frozen=True)
class _Header:
    height: int
    width: int
    grey: bool


def load(
    root: pathlib.Path,
    image_size: int | None,
    *,
    name: str | None = None,
    licence: str = "unstated",
    source: str | None = None,
) -> ImageData:
    """Loads a folder of images into memory.

    Without a `split` column about 10 % are test images, drawn by a hash of the relative path: the
    same on every machine, and adding files moves none of the others.

    Args:
        root: the folder; hidden files and files that are no images are ignored.
        image_size: images are stretched to this; `None` needs images of one size.
        name, licence, source: for the result; by default those of a user's own folder.

    Returns:
        uint8 [N, H, W, 1] if every image is grey, else [N, H, W, 3] RGB; classes sorted by name.

    Raises:
        UserError: the folder is missing or empty, a class has no (readable) image, labels.csv is
            malformed, images differ in size and `image_size` is None, the set is too big, or no
            image is left for testing.
    """
    name = name or f"folder:{root}"
    files = _list_files(root)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        headers = list(pool.map(lambda f: _read_header(root / f.path), files))
        good = [(f, h) for f, h in zip(files, headers, strict=True) if isinstance(h, _Header)]
        broken = {
            f.path: h for f, h in zip(files, headers, strict=True) if not isinstance(h, _Header)
        }
        channels = 1 if all(h.grey for _, h in good) else 3
        height, width = _common_size(root, good, image_size)
        check_fits_memory(name, (len(good), height, width, channels))
        pixels = np.empty((len(good), height, width, channels), np.uint8)

        def decode(i: int) -> str | None:
            return _decode_into(pixels[i], root / good[i][0].path, image_size)

        for (file, _), error in zip(good, pool.map(decode, range(len(good))), strict=True):
            if error is not None:
                broken[file.path] = error
    if broken:
        for path, error in broken.items():
            logging.warning("skipped broken image %s: %s", root / path, error)
        logging.warning("%s: skipped %d of %d images", name, len(broken), len(files))

    class_names = tuple(sorted({f.label for f in files}))
    rows = [i for i, (f, _) in enumerate(good) if f.path not in broken]
    kept = [good[i][0] for i in rows]
    is_test = _is_test(kept)
    labels = np.array([class_names.index(f.label) for f in kept], np.int32)
    for k, label in enumerate(class_names):
        if not np.any((labels == k) & ~is_test):
            raise UserError(
                f"{root}: class '{label}' has no readable training image; add some or remove it"
            )
    if not is_test.any():
        remedy = (
            "give some rows of labels.csv the split 'test'"
            if any(f.split for f in kept)
            else "add a second image to a class"
        )
        raise UserError(f"{root}: none of the {len(kept)} readable images is left for testing; {remedy}")
    where = np.array(rows)
    return ImageData(
        name=name,
        class_names=class_names,
        train=Images(pixels[where[~is_test]], labels[~is_test]),
        test=Images(pixels[where[is_test]], labels[is_test]),
        licence=licence,
        source=source or str(root),
    )


def _list_files(root: pathlib.Path) -> list[_File]:
    if not root.is_dir():
        raise UserError(f"image folder {root} does not exist or is not a folder")
    labels = root / "labels.csv"
    files = _list_labels(labels) if labels.is_file() else _list_folder(root)
    if not files:
        raise UserError(
            f"image folder {root} holds no image; expected <class>/<image> or images "
            f"({', '.join(sorted(_EXTENSIONS))}) directly in it"
        )
    return files


def _list_folder(root: pathlib.Path) -> list[_File]:
    flat = _images_below(root, recursive=False)
    classes = {
        folder.name: _images_below(folder, recursive=True)
        for folder in sorted(root.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
    }
    if flat and any(classes.values()):
        raise UserError(
            f"{root} holds images both directly ({flat[0].name}) and in folders: move them into "
            f"class folders, or write a labels.csv"
        )
    if flat:
        classes = {root.resolve().name: flat}
    elif any(classes.values()):
        for label, paths in classes.items():
            if not paths:
                raise UserError(f"{root}: class '{label}' has no image; add some or remove it")
    return [
        _File(path.relative_to(root).as_posix(), label, None)
        for label, paths in classes.items()
        for path in paths
    ]


def _images_below(folder: pathlib.Path, *, recursive: bool) -> list[pathlib.Path]:
    return sorted(
        path
        for path in (folder.rglob("*") if recursive else folder.iterdir())
        if path.suffix.lower() in _EXTENSIONS and not path.name.startswith(".") and path.is_file()
    )


def _list_labels(path: pathlib.Path) -> list[_File]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return _read_labels(path, csv.DictReader(stream))
    except (UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"{path}: not a CSV file in UTF-8 ({e}); save it again as one") from e


def _read_labels(path: pathlib.Path, reader: csv.DictReader) -> list[_File]:
    columns = reader.fieldnames or ()
    label_column = next((c for c in _LABEL_COLUMNS if c in columns), None)
    if "file" not in columns or label_column is None:
        raise UserError(
            f"{path}: needs a column 'file' and one of {', '.join(_LABEL_COLUMNS)}; "
            f"its columns are: {', '.join(columns) or 'none'}"
        )
    files = []
    for row in reader:
        split = row.get("split") or None
        if not row["file"] or not row[label_column] or split not in (None, "train", "test"):
            raise UserError(
                f"{path}, line {reader.line_num}: needs a file, a {label_column} and a split "
                f"'train' or 'test' (or none)"
            )
        files.append(_File(row["file"], row[label_column], split))
    return files


def _read_header(path: pathlib.Path) -> _Header | str:
    """Size and colour without decoding, or what is wrong."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            if image.getexif().get(_EXIF_ORIENTATION, 1) >= 5:  # the camera lay on its side
                width, height = height, width
            return _Header(height, width, image.mode in ("1", "L", "LA") or image.mode[0] == "I")
    # Pillow's decoders raise almost any type on damaged bytes; none may stop a run.
    except Exception as e:
        return f"{type(e).__name__}: {e}"


def _decode_into(out: np.ndarray, path: pathlib.Path, image_size: int | None) -> str | None:
    """Decodes one image into `out`, uint8 [H, W, C]; returns what is wrong, or None."""
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode[0] == "I":  # 16-bit grey: convert("L") would clip instead of scaling
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            upright = upright.convert("L" if out.shape[-1] == 1 else "RGB")
            out[:] = to_array(upright if image_size is None else resize_image(upright, image_size))
    except Exception as e:  # as in _read_header
        return f"{type(e).__name__}: {e}"
    return None


def _common_size(
    root: pathlib.Path, good: list[tuple[_File, _Header]], image_size: int | None
) -> tuple[int, int]:
    if not good:
        raise UserError(f"image folder {root}: not one image can be read")
    if image_size is not None:
        return image_size, image_size
    first_file, first = good[0]
    for file, header in good:
        if (header.height, header.width) != (first.height, first.width):
            raise UserError(
                f"{root}: images differ in size ({first_file.path} is {first.width}x{first.height},"
                f" {file.path} is {header.width}x{header.height}): set data.image_size"
            )
    return first.height, first.width


def _is_test(files: list[_File]) -> np.ndarray:
    """bool [N]: the stated split, else by hash; keeps at least one hashed image per class in train.

    If no image at all falls to the test split (a small folder), the one of lowest hash does.
    """
    is_test = np.array([f.split == "test" for f in files], bool)
    hashed = np.array([np.inf if f.split else _hash(f.path) for f in files])
    is_test |= hashed < _TEST_FRACTION
    labels = np.array([f.label for f in files])
    for label in set(labels):
        of_class = np.flatnonzero(labels == label)
        highest = of_class[np.argmax(np.where(np.isinf(hashed[of_class]), -1, hashed[of_class]))]
        if is_test[of_class].all() and not np.isinf(hashed[highest]):
            is_test[highest] = False
    if len(files) > 1 and not is_test.any() and not np.isinf(hashed.min()):
        spare = [i for i in np.argsort(hashed) if np.sum(labels == labels[i]) > 1]
        is_test[spare[:1]] = True
    return is_test


def _hash(path: str) -> float:
    """A number in [0, 1) that depends on the path alone."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") / 2**64
