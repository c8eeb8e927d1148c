"""The stylizer against optimisation: its time, its loss, its tiles, its strength.

    make bench-stylizer         (or: python tests/bench/stylizer_bench.py [--every=1])

Photos and paintings of ../shared/data at about 256x256 pixels, their aspect ratios kept; what is compared
with is L-BFGS, in the same process, on all cores; the loss of both is that of `zoo.gatys`. The stylizer
paints every photo in every style; L-BFGS, which takes half a minute for each, one pair in `--every`, so that
each style and each photo has its turns. Writes `tests/bench/results/stylizer.json`.
"""

import argparse
import json
import math
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib import metadata
from typing import Any

import numpy as np

from zoo.files import write_json

DATA = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"
WEIGHTS = DATA / "vgg19" / "vgg19_imagenet_notop_q8.h5"
RESULTS = pathlib.Path(__file__).parent / "results" / "stylizer.json"
SIDE = 256
EVALUATIONS = 50  # of L-BFGS, whose loss the stylizer's is held against
TIMED = 100  # evaluations, whose time its own is
LARGE = (3000, 4000)  # pixels


def load(name: str):
    """A stylizer by a preset's name or a work directory."""
    import zoo
    from zoo import workdir

    path = pathlib.Path(name)
    return workdir.load(path).model if path.is_dir() else zoo.from_pretrained(name)


def fitted(path: pathlib.Path) -> np.ndarray:
    """As large as 256x256, its aspect ratio kept, sides multiples of 16."""
    from zoo import pictures

    image = pictures.load(path)
    height, width = image.shape[:2]
    scale = SIDE / (height * width) ** 0.5
    sides = [max(16, 16 * round(side * scale / 16)) for side in (height, width)]
    return np.stack([pictures.stretch(image[..., c], *sides) for c in range(3)], -1)


def losses(model, photos: list[pathlib.Path], styles: list[str], every: int) -> dict[str, Any]:
    """The loss of the photo, of the stylizer and, for one pair in `every`, of L-BFGS (NaN: not painted); and
    the time of an evaluation."""
    import tensorflow as tf

    from zoo import gatys

    config = gatys.Config(steps=EVALUATIONS)
    vgg = gatys.network(config, str(WEIGHTS))
    rows = []
    seconds = []
    for number, photo in enumerate(photos):
        content = fitted(photo)
        for place, style in enumerate(styles):
            painting = fitted(DATA / "style_images" / f"{style}.jpg")
            objective = gatys.Objective(config, vgg, content, [painting], np.ones(1), None)
            mix = np.eye(len(model.config.styles), dtype=np.float32)[model.config.styles.index(style)]
            of_photo, of_stylizer = (
                float(objective(tf.constant(image.reshape(-1)))[0])
                for image in (content, model.paint(content, mix))
            )
            optimised = math.nan
            if (number + place) % every == 0:
                start = time.perf_counter()
                *_, last = gatys.paint(content, [painting], config, vgg=vgg)
                seconds.append((time.perf_counter() - start) / EVALUATIONS)
                optimised = last.loss
            rows.append([photo.stem, style, of_photo, of_stylizer, optimised])
            print(f"{photo.stem}, {style}: {of_photo:.3g} {of_stylizer:.3g} {optimised:.3g}", file=sys.stderr)
    return {"rows": rows, "seconds_per_evaluation": statistics.median(seconds)}


def seconds(model, photo: np.ndarray) -> float:
    """Of one pass, the median of ten."""
    import tensorflow as tf

    stylize = model.signatures()["stylize"]
    weights = np.eye(len(model.config.styles), dtype=np.float32)[:1]
    request = {"image": tf.constant(photo[None]), "style_weights": tf.constant(weights)}
    stylize(**request)
    found = []
    for _ in range(10):
        start = time.perf_counter()
        stylize(**request)
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def properties(model, photo: pathlib.Path) -> dict[str, Any]:
    """Tiles against the whole at 1024x1024, strength 0, and the style loss of blends of two."""
    import tensorflow as tf

    from zoo import gatys, pictures, stylizer

    image = pictures.load(photo)
    large = np.stack([pictures.stretch(image[..., c], 1024, 1024) for c in range(3)], -1)
    count = len(model.config.styles)
    mix = np.eye(count, dtype=np.float32)[-1]
    apart = float(np.abs(model.paint(large, mix, side=384) - model.paint(large, mix)).max())
    small = fitted(photo)
    untouched = float(np.square(model.paint(small, 0 * mix) - small).mean())

    config = gatys.Config()
    vgg = gatys.network(config, str(WEIGHTS))
    of_style = vgg(tf.constant(fitted(DATA / "style_images" / f"{model.config.styles[-1]}.jpg")[None]))
    blend = []
    for share in np.linspace(0, 1, 6):
        two = share * mix + (1 - share) * np.eye(count, dtype=np.float32)[0]
        seen = vgg(tf.constant(model.paint(small, two)[None]))
        blend.append(
            sum(
                weight * float(gatys.style_loss(gatys.gram(seen[n]), gatys.gram(of_style[n]))[0])
                for n, weight in config.style_layers.items()
            )
        )
    return {
        "tiles_apart_of_255": 255 * apart,
        "psnr_of_strength_0": -10 * np.log10(max(untouched, 1e-10)),
        "style_loss_of_blends": blend,
        "smallest_side": stylizer.SMALLEST,
    }


def large_photo(name: str) -> dict[str, float]:
    """Seconds and peak memory of 4000x3000 pixels; to be run in a process of its own."""
    model = load(name)
    photo = np.random.default_rng(0).random((*LARGE, 3), np.float32)
    mix = np.eye(len(model.config.styles), dtype=np.float32)[0]
    start = time.perf_counter()
    model.paint(photo, mix)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts kibibytes
    return {"seconds": time.perf_counter() - start, "peak_bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stylizer", default="stylizer_paintings", help="a preset or a work directory")
    parser.add_argument("--photos", type=int, default=8, help="so many photos: fewer for a trial")
    parser.add_argument("--every", type=int, default=4, help="L-BFGS paints one pair of so many")
    parser.add_argument("--large", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.large:
        print(json.dumps(large_photo(given.stylizer)))
        return
    if not WEIGHTS.is_file():
        sys.exit(f"error: this needs {WEIGHTS}")
    from train import card

    model = load(given.stylizer)
    photos = sorted((DATA / "content_images").glob("*.jpg"))[: given.photos]
    of_tubingen = properties(model, DATA / "content_images" / "tubingen.jpg")
    one_pass = seconds(model, fitted(photos[0]))
    command = [sys.executable, __file__, "--large", f"--stylizer={given.stylizer}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    large = json.loads(done.stdout.splitlines()[-1])
    found = losses(model, photos, list(model.config.styles), given.every)
    table = np.array([row[2:] for row in found["rows"]])
    both = table[np.isfinite(table[:, 2])]
    ratio = float((both[:, 1] / both[:, 2]).mean())
    faster = TIMED * found["seconds_per_evaluation"] / one_pass
    result = {
        "what": f"{len(photos)} photos in {len(model.config.styles)} styles at {SIDE}x{SIDE}, all cores;"
        f" L-BFGS: {len(both)} of the {len(table)} pairs",
        "summary": f"A stylizer's pass at {SIDE}x{SIDE}: {1000 * one_pass:.0f} ms, {faster:.0f} x faster than"
        f" {TIMED} evaluations of L-BFGS; its loss is {ratio:.2f} x that of {EVALUATIONS} of them on"
        f" {len(both)} pairs ({both[:, 1].mean() / both[:, 0].mean():.1%} of the photos'; theirs"
        f" {both[:, 2].mean() / both[:, 0].mean():.1%}; all {len(table)} pairs:"
        f" {table[:, 1].mean() / table[:, 0].mean():.1%}); 4000x3000 pixels: {large['seconds']:.0f} s,"
        f" {large['peak_bytes'] / 1e9:.1f} GB; tiles against the whole:"
        f" {of_tubingen['tiles_apart_of_255']:.3f}/255",
        "seconds_of_a_pass": one_pass,
        "times_faster": faster,
        "loss_ratio": ratio,
        "large": large,
        **of_tubingen,
        "rows": [[None if x != x else x for x in row] for row in found["rows"]],
        "seconds_per_evaluation": found["seconds_per_evaluation"],
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("keras", "tensorflow")},
        },
        "hardware": card.hardware(),
        "command": "make bench-stylizer",
    }
    for key in ("summary", "psnr_of_strength_0", "style_loss_of_blends"):
        print(f"{key}: {result[key]}")
    if given.photos != 8:
        print("a trial: nothing was written")
        return
    write_json(RESULTS, result)
    print(f"written: {RESULTS}")


if __name__ == "__main__":
    main()
