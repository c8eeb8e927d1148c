"""Trains the scoring classifier of a data set and keeps it in `train/metrics/judges/<data set>/`.

    python -m train.metrics.judge_main --data=mnist --data_dir=../shared/data

Prints its test accuracy and the REAL row: train images against test images, the floor of every
distance. A judge that replaces a kept one makes all figures taken with the old one incomparable.
"""

import shlex
import sys
import time
from importlib import metadata

from absl import flags

from train import card
from train import data as data_sets
from train.data.images import ImageData
from train.metrics import distances, generative, judge
from zoo import binary
from zoo.errors import UserError

_DATA = flags.DEFINE_string("data", None, "data set, as train.main names it", required=True)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "where named data sets keep their files")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", None, "side in pixels; none: as stored", 1)
_EPOCHS = flags.DEFINE_integer("epochs", 6, "passes over the training images", 1)
_AUGMENT = flags.DEFINE_boolean("augment", False, "random flips and shifts: for small sets")
_SEED = flags.DEFINE_integer("seed", 0, "of everything random", 0)
_FEWEST = 4  # precision and recall look at the third neighbour


def main(argv: list[str]) -> None:
    del argv  # zoo.binary has refused any
    data = data_sets.load(_DATA.value, data_dir=_DATA_DIR.value, image_size=_IMAGE_SIZE.value)
    if not isinstance(data, ImageData):
        raise UserError(f"data set '{_DATA.value}' holds {data.kind}; a judge looks at images")
    for split, images in (("training", data.train), ("test", data.test)):
        if len(images.labels) < _FEWEST:
            raise UserError(
                f"data set '{_DATA.value}' has {len(images.labels)} {split} images, but the REAL row needs "
                f"{_FEWEST} or more: add some, or choose a larger set"
            )
    start = time.perf_counter()
    trained = judge.train(
        data.train.images,
        data.train.labels,
        list(data.class_names),
        epochs=_EPOCHS.value,
        seed=_SEED.value,
        augment=_AUGMENT.value,
    )
    wall = time.perf_counter() - start
    predicted = trained.features(data.test.images).predicted
    trained.card.update(
        data=_DATA.value,
        licence=data.licence,
        source=data.source,
        command=shlex.join(["python", "-m", "train.metrics.judge_main", *sys.argv[1:]]),
        seed=_SEED.value,
        wall_time_s=round(wall, 1),
        hardware=card.hardware(),
        versions={name: metadata.version(name) for name in ("tensorflow", "keras", "numpy")},
        parameters=trained.parameters(),
        test_accuracy=distances.accuracy(predicted, data.test.labels),
    )
    # The test images stand in for a perfect generator's: the FAKE row shows the ceiling.
    report = generative.generative_report(
        trained, data.train.images, data.test.images, data.test.images, data.test.labels
    )
    trained.card["real"] = {**report["real"], "n": report["n"], "n_test": report["n_test"]}
    where = trained.save(_DATA.value)
    print("FAKE: the test images themselves (ceiling); REAL: train images (floor)")
    print(generative.table(report))
    print(f"test accuracy {trained.card['test_accuracy']:.4f}, {wall:.0f} s; kept in {where}")


if __name__ == "__main__":
    binary.run(main)
