"""Where a data set's content comes from: what to look at to know whether it has changed."""

import pathlib

from train.data import idx, tfds

# Below --data_dir; of the other named sets, `idx` knows the files.
_BELOW = {
    "paintings": "paintings",
    "jsb_chorales": "jsb_chorales",
    "tinyshakespeare": "tinyshakespeare",
    "tang": "poetry_zh",
}
_IDX = {facts.name: facts for facts in (idx.MNIST, idx.FASHION_MNIST)}


def paths(name: str, data_dir: pathlib.Path | None) -> tuple[pathlib.Path, ...]:
    """The files and folders that `data.load(name, data_dir=data_dir)` reads; call it when it has loaded.

    None for `digits`: it comes with scikit-learn.
    """
    kind, _, rest = name.partition(":")
    if kind in ("folder", "midi", "text"):
        return (pathlib.Path(rest).expanduser(),)
    if kind == "tfds":
        return (tfds.folder(rest, data_dir),)
    if name in _IDX:
        return idx.files(_IDX[name], data_dir) or (tfds.folder(name, data_dir),)
    if name in _BELOW and data_dir is not None:
        return (data_dir / _BELOW[name],)
    return ()
