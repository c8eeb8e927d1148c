"""The whole line on real digits, in minutes and without a download: `make demo`.

Trains a conditional GAN and a classifier, exports both and the kept models of `showcase`, serves them all,
asks the server over gRPC for samples of every digit and has the served classifier read them back; then the
kept models draw, write and compose. Each stage is the binary a user would run; this file only runs them,
calls the server and draws.
"""

import json
import pathlib
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from absl import flags
from PIL import Image, ImageDraw, ImageFont

from serving import client as client_lib
from serving import errors, launch, showcase
from zoo import binary, stage
from zoo.errors import UserError

_OUT_DIR = flags.DEFINE_string(
    "out_dir",
    "demo",
    "Folder for the results; what the demo itself made in its runs/ and models/ is made anew each time.",
)

GAN, CNN = "gan_digits", "cnn_digits"
GALLERY_ROWS = 8
SAMPLES_PER_DIGIT = 100
_SCALE, _MARGIN, _CAPTION, _TITLE = 6, 6, 16, 40
_RIGHT, _WRONG, _INK, _PAPER = (46, 125, 50), (198, 40, 40), (33, 33, 33), (250, 250, 250)


@contextmanager
def _stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    print(f"\n== {name}", flush=True)
    start = time.monotonic()
    yield
    seconds[name] = round(time.monotonic() - start, 1)
    print(f"== {name}: {seconds[name]} s", flush=True)


def run_stage(*arguments: str) -> None:
    """Runs a binary of the line; ends the demo with the binary's exit status where that is not 0."""
    if status := stage.run(*arguments):
        sys.exit(status)  # the binary has said itself what is wrong


def clear(out: pathlib.Path) -> None:
    """Removes what an earlier demo made of its models; other runs and models are the user's."""
    made = [out / parent / preset for parent in ("runs", "models") for preset in (GAN, CNN)]
    for folder in [*made, *(out / "models" / preset for preset in showcase.PRESETS)]:
        if folder.exists():
            shutil.rmtree(folder)


def _test_accuracy(workdir: pathlib.Path) -> float:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [m["eval/accuracy"] for m in map(json.loads, lines) if "eval/accuracy" in m][-1]


def gallery(images: np.ndarray, verdicts: list[str], names: list[str]) -> Image.Image:
    """A picture of samples by class, the classifier's verdict under each.

    Args:
        images: float32 `[rows, classes, H, W, 1]` in `[0, 1]`.
        verdicts: what the classifier read, row by row, `rows * classes` of them.
        names: the classes asked for, one for each column.

    Returns:
        An RGB picture: a green frame where the verdict is the class asked for, else a red one.
    """
    rows, classes, height, width, _ = images.shape
    step_x, step_y = width * _SCALE + 2 * _MARGIN, height * _SCALE + 2 * _MARGIN + _CAPTION
    sheet = Image.new("RGB", (classes * step_x, rows * step_y + _TITLE), _PAPER)
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(18), ImageFont.load_default(12)
    for column, name in enumerate(names):
        draw.text((column * step_x + step_x / 2, 10), name, _INK, large, anchor="ma")
    for i, verdict in enumerate(verdicts):
        row, column = divmod(i, classes)
        x, y = column * step_x + _MARGIN, row * step_y + _MARGIN + _TITLE
        pixels = np.round(images[row, column, :, :, 0] * 255).astype(np.uint8)
        tile = Image.fromarray(pixels).resize((width * _SCALE, height * _SCALE), Image.Resampling.NEAREST)
        colour = _RIGHT if verdict == names[column] else _WRONG
        draw.rectangle([x - 2, y - 2, x + tile.width + 1, y + tile.height + 1], fill=colour)
        sheet.paste(tile, (x, y))
        draw.text(
            (x + tile.width / 2, y + tile.height + 3), f"reads {verdict}", colour, small, anchor="ma"
        )
    return sheet


def _ask(client: client_lib.Client) -> tuple[np.ndarray, list[str], np.ndarray]:
    """Samples of every digit, what the served classifier reads, and what was asked for."""
    label = np.tile(np.arange(10, dtype=np.int32), SAMPLES_PER_DIGIT)
    seed = np.arange(len(label), dtype=np.int64)
    image = client.predict(GAN, {"seed": seed, "label": label}, signature="sample")["image"]
    verdict = client.predict(CNN, {"image": image}, signature="classify")["label"]
    return image, [v.decode() for v in verdict.tolist()], label


def main(_: list[str]) -> None:
    out = pathlib.Path(_OUT_DIR.value)
    runs, models = out / "runs", out / "models"
    out.mkdir(parents=True, exist_ok=True)
    clear(out)
    seconds: dict[str, float] = {}
    start = time.monotonic()
    for preset, title in ((CNN, "train the classifier"), (GAN, "train the GAN")):
        with _stage(title, seconds):
            run_stage("train.main", f"--config={preset}", f"--workdir={runs / preset}")
    for preset, title in ((CNN, "export the classifier"), (GAN, "export the GAN")):
        with _stage(title, seconds):
            run_stage("serving.export_main", f"--workdir={runs / preset}", f"--base_dir={models}")
    with _stage("export the kept models", seconds):
        for preset in showcase.PRESETS:
            run_stage("serving.export_main", f"--pretrained={preset}", f"--base_dir={models}")
    with _stage("serve and ask", seconds):
        served = {name: (models / name).resolve() for name in (CNN, GAN, *showcase.PRESETS)}
        try:
            with launch.launch(served) as server, client_lib.Client.connect(server.address) as client:
                image, verdict, asked = _ask(client)
                shown_by_others = showcase.write_all(client, out)
        except errors.ServingError as error:
            raise UserError(str(error)) from error
    agreement = float(np.mean([v == str(a) for v, a in zip(verdict, asked, strict=True)]))

    shown = GALLERY_ROWS * 10
    sheet = gallery(
        image[:shown].reshape(GALLERY_ROWS, 10, *image.shape[1:]),
        verdict[:shown],
        [str(digit) for digit in range(10)],
    )
    sheet.save(out / "gallery.png")
    accuracy = _test_accuracy(runs / CNN)
    digits = json.loads((runs / GAN / "card.json").read_text())["data"]["train_images"]
    summary = {
        "agreement": agreement,
        "samples": len(verdict),
        "test_accuracy": accuracy,
        "seconds": seconds,
        "total_seconds": round(time.monotonic() - start, 1),
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")

    others = "\n".join(f"  {path}" for path in shown_by_others)
    python = shlex.quote(sys.executable)
    print(f"""
A GAN and a classifier were trained on {digits:,} real 8x8 digits, exported and served in
{summary["total_seconds"]} s. The classifier reads {accuracy:.1%} of the held-out real digits right,
and {agreement:.1%} of {len(verdict):,} generated ones as the digit that was asked for.

  {out / "gallery.png"}    generated digits by class, with the classifier's verdict
  {out / "summary.json"}   these figures, and the seconds of each stage
  {models}/         the SavedModels, as any TensorFlow Serving reads them

Kept weights, asked over gRPC like those two:

{others}

Try next:
  {python} -m serving.export_main --pretrained=gan_fashion --base_dir={models}
  {python} -m serving.server_main --port=8500 --model_name=gan_fashion \\
      --model_base_path={(models / "gan_fashion").resolve()} &
  {python} -m serving.client_main predict gan_fashion --server=127.0.0.1:8500 --signature=sample \\
      --input seed=0,1,2,3,4,5,6,7 --input label=8 --output_dir={out / "bags"}
""")


def run() -> None:
    """The console script."""
    try:
        binary.run(main)
    except KeyboardInterrupt:
        print("interrupted: the next demo begins anew", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
