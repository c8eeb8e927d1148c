"""Paints a photo in a style: `python -m train.stylize_main photo.jpg --style=painting.jpg`.

By optimisation (`zoo.gatys`), which takes minutes and any painting: several styles mix
(`--style=a.jpg,b.jpg --style_weights=2,1`) or share the picture (`--mask=left.png,right.png`, white where
each style goes). It needs VGG19's weights, in Keras' cache or by `--vgg19_weights=<path>`.

Or in one pass, films and animated GIFs too, in a style that a network was taught (`zoo.stylizer`), or in that
of any painting (`zoo.arbitrary_stylizer`):
`python -m train.stylize_main clip.mp4 --stylizer=<preset or workdir> --style=<name or file> --strength=0.8`.
"""

import collections
import os
import pathlib
import sys

from absl import flags

from zoo import binary
from zoo.errors import UserError

with binary.needs("train"):
    import numpy as np
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    import zoo
    from zoo import arbitrary_stylizer, gatys, minimizers, pictures, stylizer, vgg19, video, workdir
    from zoo.files import atomic_write

_DEFAULTS = gatys.Config()
_STYLE = flags.DEFINE_list(
    "style",
    None,
    "Paintings to take the style from, separated by commas; with --stylizer the names of its styles, or"
    " paintings where it is one of any style.",
    required=True,
)
_STYLE_WEIGHTS = flags.DEFINE_list("style_weights", None, "How much of each style; default: equal parts.")
_MASK = flags.DEFINE_list(
    "mask", None, "For each style a picture of the photo's shape, white where it goes; default: everywhere."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "PNG or JPEG file, or a film; default: <photo>_<style>.png in the current folder."
)
_STYLIZER = flags.DEFINE_string(
    "stylizer", None, "Preset or work directory of a stylizer: paints in one pass, films too."
)
_STRENGTH = flags.DEFINE_float(
    "strength", 1.0, "With --stylizer: 0 leaves the photo, 1 paints.", lower_bound=0, upper_bound=1
)
_SMOOTHING = flags.DEFINE_float(
    "smoothing", 0.8, "Of films: how much a frame keeps of those before; less than 1.", lower_bound=0
)
_SIZE = flags.DEFINE_integer(
    "size",
    None,
    "Longest side in pixels; a smaller photo is not enlarged; 0: the photo's own. Default: 512, and the"
    " photo's own with --stylizer.",
    lower_bound=0,
)
_STEPS = flags.DEFINE_integer(
    "steps", _DEFAULTS.steps, "Evaluations of the loss at each scale.", lower_bound=1
)
_SCALES = flags.DEFINE_integer(
    "scales", 1, "Coarse to fine: so many sizes, each twice the one before.", lower_bound=1, upper_bound=8
)
_CONTENT_WEIGHT = flags.DEFINE_float(
    "content_weight", _DEFAULTS.content_weight, "More keeps more of the photo."
)
_STYLE_WEIGHT = flags.DEFINE_float("style_weight", _DEFAULTS.style_weight, "More paints more.")
_TV_WEIGHT = flags.DEFINE_float("tv_weight", _DEFAULTS.tv_weight, "Total variation: more is smoother.")
_MINIMIZER = flags.DEFINE_enum_class(
    "minimizer", _DEFAULTS.minimizer, minimizers.Minimizer, "How to minimise."
)
_START = flags.DEFINE_enum_class("start", _DEFAULTS.start, gatys.Start, "The picture to start from.")
_SEED = flags.DEFINE_integer("seed", _DEFAULTS.seed, "Of --start=noise.", lower_bound=0)
_COLOR = flags.DEFINE_enum_class(
    "color", _DEFAULTS.color, gatys.Color, "Of the style, or of the photo: by its luminance or histogram."
)
_POOLING = flags.DEFINE_enum_class("pooling", _DEFAULTS.pooling, vgg19.Pooling, "Between VGG19's blocks.")
_DTYPE = flags.DEFINE_enum("dtype", _DEFAULTS.dtype, ["float32", "bfloat16"], "Of VGG19.")
_TILE = flags.DEFINE_integer(
    "tile", _DEFAULTS.tile, "Larger pictures are evaluated in tiles; less needs less memory.", lower_bound=16
)
_PREVIEW_DIR = flags.DEFINE_string("preview_dir", None, "Folder for pictures on the way.")
_PREVIEW_EVERY = flags.DEFINE_integer("preview_every", 10, "Evaluations between two previews.", lower_bound=1)
_WEIGHTS = flags.DEFINE_string(
    "vgg19_weights", vgg19.IMAGENET, "A .h5 file of VGG19's; default: Keras' cache; random: for tests."
)


# What optimisation alone looks at.
_OPTIMISATION = (
    *("mask", "steps", "scales", "content_weight", "style_weight", "tv_weight", "minimizer", "start"),
    *("seed", "pooling", "dtype", "tile", "preview_dir", "preview_every", "vgg19_weights"),
)
_ONE_PASS = ("strength", "smoothing")


def main(argv: list[str]) -> None:
    photo = pathlib.Path(argv[1])
    is_film = photo.suffix.lower() in video.SUFFIXES and _STYLIZER.value is not None
    default = f"{photo.stem}_{'_'.join(pathlib.Path(s).stem for s in _STYLE.value)}"
    output = pathlib.Path(_OUTPUT.value or default + (_film_suffix(photo) if is_film else ".png"))
    known = video.WRITTEN if is_film else tuple(pictures.SUFFIXES)
    if output.suffix.lower() not in known:
        raise UserError(f"--output={output}: a file ending {', '.join(known)} is expected")
    # A GIF may be a picture as well.
    if photo.suffix.lower() in set(video.SUFFIXES) - {".gif"} and _STYLIZER.value is None:
        raise UserError(
            f"{photo} is a film: films are painted with --stylizer, for example stylizer_paintings"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(output.parent, os.W_OK):
        raise UserError(f"--output={output}: {output.parent} cannot be written")
    ignored = _OPTIMISATION if _STYLIZER.value is not None else _ONE_PASS
    if given := [name for name in ignored if flags.FLAGS[name].present]:
        mode = "without" if _STYLIZER.value is not None else "with"
        raise UserError(f"--{given[0]} is {mode} --stylizer alone: leave one of them out")
    if _STYLIZER.value is None:
        _optimise(photo, output)
    elif is_film:
        _paint_film(photo, output, *_stylizer(_STYLIZER.value))
    else:
        _paint_photo(photo, output, *_stylizer(_STYLIZER.value))


def _film_suffix(film: pathlib.Path) -> str:
    return film.suffix if film.suffix.lower() in video.WRITTEN else ".mp4"


# One pass ---------------------------------------------------------------------------------------


def _stylizer(name: str) -> tuple[stylizer.Painter, np.ndarray]:
    """The model, and the styles as it takes them."""
    if _COLOR.value == gatys.Color.HISTOGRAM:
        raise UserError("--color=histogram is without --stylizer alone: style or luminance is expected")
    model = workdir.load(pathlib.Path(name)).model if os.path.isdir(name) else zoo.from_pretrained(name)
    styles = _STYLE.value
    if isinstance(model, arbitrary_stylizer.Model):
        known = [model.embed(pictures.load(pathlib.Path(style), stylizer.SMALLEST)) for style in styles]
    elif isinstance(model, stylizer.Model):
        names = model.config.styles
        if unknown := [style for style in styles if style not in names]:
            raise UserError(f"--style={unknown[0]}: the styles of {name} are {', '.join(names)}")
        known = [np.eye(len(names), dtype=np.float32)[names.index(style)] for style in styles]
    else:
        raise UserError(f"--stylizer={name} is no stylizer, but a {type(model).__module__}")
    weights = [1.0] * len(styles) if _STYLE_WEIGHTS.value is None else _numbers(_STYLE_WEIGHTS.value)
    if len(weights) != len(styles) or not all(0 <= w < np.inf for w in weights) or not any(weights):
        raise UserError(f"--style_weights: {len(styles)} numbers of at least 0, not all 0, are expected")
    mix = np.average(known, axis=0, weights=weights) * _STRENGTH.value
    return model, mix.astype(np.float32)


def _fitted(image: np.ndarray) -> np.ndarray:
    own = max(image.shape[:2])
    fitted = pictures.fit(image, min(_SIZE.value or own, own))
    height, width, _ = fitted.shape
    if min(height, width) < stylizer.SMALLEST:
        raise UserError(
            f"{width}x{height} pixels are left to paint: at least {stylizer.SMALLEST} a side are expected;"
            " choose a larger --size or picture"
        )
    return fitted


def _in_colour(painted: np.ndarray, photo: np.ndarray) -> np.ndarray:
    if _COLOR.value == gatys.Color.LUMINANCE:
        return gatys.with_luminance(photo, gatys.luminance(painted))
    return painted


def _paint_photo(
    photo: pathlib.Path, output: pathlib.Path, model: stylizer.Painter, mix: np.ndarray
) -> None:
    content = _fitted(pictures.load(photo, stylizer.SMALLEST))
    painted = _in_colour(model.paint(content, mix), content)
    atomic_write(output, pictures.encode(painted, output.suffix))
    print(f"wrote {output}: {painted.shape[1]}x{painted.shape[0]}")


def _paint_film(
    path: pathlib.Path, output: pathlib.Path, model: stylizer.Painter, mix: np.ndarray
) -> None:
    if _SMOOTHING.value >= 1:
        raise UserError(f"--smoothing={_SMOOTHING.value}: less than 1 is expected")
    film = video.read(path)
    console = Console(stderr=True)
    shown: collections.deque[np.ndarray] = collections.deque()

    def fitted():
        for frame in film.frames:
            shown.append(_fitted(frame))
            yield shown[-1]

    with Progress(
        TextColumn("painting"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        painted = model.paint_frames(fitted(), mix, _SMOOTHING.value)
        frames = (_in_colour(frame, shown.popleft()) for frame in painted)
        count = video.write(output, bar.track(frames, total=film.length or None), film.rate, sound=path)
    print(f"wrote {output}: {count} frames")


# Optimisation -----------------------------------------------------------------------------------


def _optimise(photo: pathlib.Path, output: pathlib.Path) -> None:
    styles = [pathlib.Path(style) for style in _STYLE.value]
    config = gatys.Config(
        content_weight=_CONTENT_WEIGHT.value,
        style_weight=_STYLE_WEIGHT.value,
        tv_weight=_TV_WEIGHT.value,
        pooling=_POOLING.value,
        dtype=_DTYPE.value,
        minimizer=_MINIMIZER.value,
        steps=_STEPS.value,
        scales=_SCALES.value,
        start=_START.value,
        seed=_SEED.value,
        color=_COLOR.value,
        tile=_TILE.value,
    )
    content = pictures.load(photo, gatys.SMALLEST)
    own = max(content.shape[:2])
    longest = min((512 if _SIZE.value is None else _SIZE.value) or own, own)
    content = pictures.fit(content, longest)
    # Strokes are copied pixel by pixel: a painting as large as the photo gives them their size in it.
    paintings = [pictures.fit(pictures.load(style, gatys.SMALLEST), longest) for style in styles]
    steps = gatys.paint(
        content,
        paintings,
        config,
        style_weights=None if _STYLE_WEIGHTS.value is None else _numbers(_STYLE_WEIGHTS.value),
        masks=None if _MASK.value is None else [_mask(path, content.shape[:2]) for path in _MASK.value],
        vgg=gatys.network(config, _WEIGHTS.value),
    )
    console = Console(stderr=True)
    with Progress(
        TextColumn("painting"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("painting", total=config.steps * config.scales, loss="")
        for progress in steps:
            bar.update(task, completed=progress.evaluation, loss=f"{progress.loss:.4g}")
            if _PREVIEW_DIR.value is not None and progress.evaluation % _PREVIEW_EVERY.value == 0:
                path = pathlib.Path(_PREVIEW_DIR.value, f"step_{progress.evaluation:05d}.png")
                atomic_write(path, pictures.encode(progress.image, ".png"))
    height, width = progress.image.shape[:2]
    atomic_write(output, pictures.encode(progress.image, output.suffix))
    print(
        f"wrote {output}: {width}x{height}, loss {progress.loss:.4g} after {progress.evaluations} evaluations"
    )


def _numbers(words: list[str]) -> list[float]:
    try:
        return [float(word) for word in words]
    except ValueError as error:
        given = ",".join(words)
        raise UserError(f"--style_weights={given}: numbers separated by commas are expected") from error


def _mask(path: str, shape: tuple[int, int]):
    """A picture file as a region: its lightness, in the size of the photo, whose shape it must have."""
    mask = pictures.load(pathlib.Path(path))
    height, width = mask.shape[:2]
    if abs(height / width * shape[1] / shape[0] - 1) > 0.02:
        photo = f"{shape[1]}x{shape[0]}"
        raise UserError(f"mask {path} is {width}x{height}; the shape of the photo, {photo}, is expected")
    return pictures.stretch(gatys.luminance(mask), *shape)


def run() -> None:
    """The console script."""
    try:
        binary.run(main, positional=("photo",))
    except KeyboardInterrupt:
        print("interrupted: nothing was written but previews", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
