"""The data sets, by name: one literal table.

| name | what | files |
|---|---|---|
| digits | scikit-learn's 8x8 handwritten digits, 10 classes, 1,797 | none |
| mnist, fashion_mnist | 28x28 grey, 10 classes, 60,000 / 10,000 | idx files, else TFDS |
| paintings | 128x128 RGB, 6 styles, 3,306 / 563 | `<data_dir>/paintings`, with labels.csv |
| jsb_chorales | Bach's chorales by quarter notes, 229 / 76 / 77 pieces | `<data_dir>/jsb_chorales` |
| midi:<path> | MIDI files of four voices | the folder, or one file |
| tinyshakespeare | 1,115,394 symbols of plays, the last tenth held out | `<data_dir>/tinyshakespeare` |
| tang | 13,987 Chinese quatrains, a tenth of the poems held out | `<data_dir>/poetry_zh` |
| text:<path> | any UTF-8 file, its last tenth held out | the file |
| folder:<path> | a folder of images by class, or flat, or with labels.csv | the folder |
| tfds:<name> | any TFDS image classification set | TFDS |
"""

import difflib
import pathlib
from collections.abc import Callable

from train.data import chorales, digits, folder, idx, text, tfds
from train.data.dataset import DataSet
from train.data.images import ImageData, Images
from zoo.errors import UserError

__all__ = ["KINDS", "SETS", "ImageData", "Images", "load"]

_Loader = Callable[[pathlib.Path | None, int | None], DataSet]


def _paintings(data_dir: pathlib.Path | None, image_size: int | None) -> ImageData:
    if data_dir is None:
        raise UserError("data set 'paintings' needs --data_dir: it is read from <dir>/paintings")
    return folder.load(
        data_dir / "paintings",
        image_size,
        name="paintings",
        licence="works in the public domain; images from WikiArt, non-commercial research use",
        source="WikiArt by jalpv1/wiki-art-selected-resized, 6 styles, 54 artists",
    )


# name -> loader(data_dir, image_size)
SETS: dict[str, _Loader] = {
    "digits": lambda data_dir, image_size: digits.load(image_size),
    "mnist": lambda data_dir, image_size: idx.load(idx.MNIST, data_dir, image_size),
    "fashion_mnist": lambda data_dir, image_size: idx.load(idx.FASHION_MNIST, data_dir, image_size),
    "paintings": _paintings,
    "jsb_chorales": lambda data_dir, image_size: chorales.jsb(data_dir),
    "tinyshakespeare": lambda data_dir, image_size: text.tinyshakespeare(data_dir),
    "tang": lambda data_dir, image_size: text.tang(data_dir),
}
# kind, as in "kind:<rest>" -> loader(rest, data_dir, image_size)
KINDS: dict[str, Callable[[str, pathlib.Path | None, int | None], DataSet]] = {
    "folder": lambda rest, data_dir, size: folder.load(pathlib.Path(rest).expanduser(), size),
    "midi": lambda rest, data_dir, size: chorales.midi(pathlib.Path(rest).expanduser()),
    "text": lambda rest, data_dir, size: text.load(pathlib.Path(rest).expanduser()),
    "tfds": lambda rest, data_dir, size: tfds.load(rest, data_dir, size),
}


def load(
    name: str,
    *,
    data_dir: str | pathlib.Path | None = None,
    image_size: int | None = None,
) -> DataSet:
    """Loads a data set into memory; the same name and files always give the same arrays.

    Args:
        name: one of the table above.
        data_dir: where named sets look for their files.
        image_size: images are stretched to image_size x image_size (Lanczos, anti-aliased; nothing
            is cut off); `None` keeps the native size, which all images must then share.

    Returns:
        Train and test images uint8 [N, H, W, C], C = 1 (grey) or 3 (RGB), labels int32 [N]:
        `load("mnist", data_dir=d).train.images` is [60000, 28, 28, 1]. Or what the other kinds hold.

    Raises:
        UserError: the name is unknown, a split has no image, or the files are missing, broken, of
            several sizes without `image_size`, or too big for the memory.
    """
    if image_size is not None and image_size < 1:
        raise UserError(f"data.image_size is {image_size}; expected a positive number or none")
    path = None if data_dir is None else pathlib.Path(data_dir).expanduser()
    if name in SETS:
        return SETS[name](path, image_size)
    kind, colon, rest = name.partition(":")
    if colon and rest and kind in KINDS:
        return KINDS[kind](rest, path, image_size)
    close = difflib.get_close_matches(name, SETS, n=1)
    raise UserError(
        f"unknown data set '{name}'{f' (did you mean {close[0]!r}?)' if close else ''}; "
        f"expected one of: {', '.join(SETS)}, {', '.join(f'{k}:<...>' for k in KINDS)}"
    )
