"""Writes the README's results table and picture from the kept cards: `python -m train.readme_main`.

Nothing is measured here: the figures are those in `zoo/weights/*/card.json`, written by
`train.evaluate_main --keep`, and in `tests/bench/results/`.
"""

import io
import json
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from train import style_strip
from zoo import binary, pictures, pretrained
from zoo.errors import UserError
from zoo.files import atomic_write

ROOT = pathlib.Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
PICTURE = pretrained.DIRECTORY / "samples.png"
_SHEETS = ("gan_mnist", "gan_fashion", "gan_paintings", "vae_mnist")
_LINES = 14  # of a text's sample
_HEIGHT, _GAP = 360, 16


def results() -> str:
    """The table of kept presets and of benchmarks, in Markdown."""
    lines = [
        "| preset | on the test split | beside it, by the same measure | size | trained in |",
        "|---|---|---|---|---|",
    ]
    for name in pretrained.names():
        card = pretrained.card(name)
        judged = card.get("judged_images")
        against = f" ({judged['generated']:,} against {judged['test']:,})" if judged else ""
        weights = (pretrained.DIRECTORY / name / "weights.npz").stat().st_size / 1e6
        lines.append(
            f"| `{name}` | {_row(card['metrics'], _LABELS) or '-'}{against} | {_beside(card) or '-'}"
            f" | {weights:.1f} MB | {card['wall_seconds'] / 60:.0f} min |"
        )
    lines += ["", "Each row: `python -m train.evaluate_main --pretrained=<preset> --data_dir=<dir>`."]
    lines += samples()
    for path in sorted((ROOT / "tests" / "bench" / "results").glob("*.json")):
        bench = json.loads(path.read_text())
        lines += ["", f"{bench['summary']} (`{bench['command']}`)"]
    return "\n".join(lines)


def samples() -> list[str]:
    """What the kept models write and compose, in Markdown: the previews that their training ended with."""
    lines = []
    for name in pretrained.names():
        text, score = (pretrained.DIRECTORY / name / f"preview.{ending}" for ending in ("txt", "mid"))
        if text.exists():
            shown = text.read_text(encoding="utf-8").splitlines()[:_LINES]
            lines += ["", f"`{name}` writes:", "", "```", *shown, "```"]
        if score.exists():
            roll = score.with_suffix(".png").relative_to(pretrained.DIRECTORY.parent.parent)
            heard = score.relative_to(pretrained.DIRECTORY.parent.parent)
            lines += ["", f"`{name}` composes ([MIDI]({heard})):", "", f"![Its piano roll]({roll})"]
    return lines


_LABELS = {
    "accuracy": "accuracy {:.2%}",
    "fd_feat": "FD {:.2f}",
    "precision": "precision {:.3f}",
    "recall": "recall {:.3f}",
    "score": "score {:.2f}",
    "agreement": "agreement {:.3f}",
    "mse": "MSE {:.5f}",
    "denoise_gain_db": "denoising {:+.2f} dB over the best of median, non-local means, bilateral",
    "bytes_per_image": "{:.0f} bytes an image",
    "negative_elbo": "-ELBO {:.2f} nats",
    "iwae_nll": "IWAE {:.2f} nats",
    "bits_per_dim": "{:.2f} bits/dim",
    "nats_per_symbol": "{:.3f} nats a symbol",
    "quatrain_form": "{:.1%} keep the form",
    "nll": "NLL {:.2f}",
    "gatys_loss": "loss of Gatys {:.3f}",
    "nearest_train_ratio": "distance to training images {:.2f} x a test image's",
    "longest_copied": "longest copy {:.0f} symbols",
    "copied": "longest melody copied {:.1f} steps",
}
# What stands for comparison among a preset's own metrics.
_OTHERS = {
    "pca_mse": "PCA's MSE {:.5f}",
    "jpeg_ratio": "JPEG {:.1f} x the bytes",
    "jpeg_scan_ratio": "{:.1f} x without its header",
    "gatys_loss_of_photo": "of the photos {:.3f}",
    "ngram_nats_per_symbol": "n-gram {:.3f} nats",
    "longest_copied_of_held_out": "held-out text's longest copy {:.0f}",
    "copied_of_test_pieces": "test pieces' {:.1f} steps",
}


def _row(metrics: dict[str, float], labels: dict[str, str]) -> str:
    return ", ".join(form.format(metrics[key]) for key, form in labels.items() if key in metrics)


def _beside(card: dict[str, Any]) -> str:
    real = _row(card.get("metrics_of_real_images", {}), _LABELS)
    found = [f"real training images: {real}" if real else "", _row(card["metrics"], _OTHERS)]
    return "; ".join(filter(None, found))


def with_results(readme: str) -> str:
    """The README's text with a fresh table between its two marks."""
    if BEGIN not in readme or END not in readme:
        raise UserError(f"README.md has lost its marks {BEGIN} and {END}")
    before, rest = readme.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{results()}\n{END}{rest.split(END, 1)[1]}"


def picture() -> Image.Image:
    """The kept previews of the generative presets, side by side."""
    sheets = []
    for name in _SHEETS:
        path = pretrained.DIRECTORY / name / "preview.png"
        if path.exists():
            sheet = Image.open(path).convert("RGB")
            sheets.append(sheet.resize((round(sheet.width * _HEIGHT / sheet.height), _HEIGHT)))
    width = sum(s.width for s in sheets) + _GAP * (len(sheets) - 1)
    montage = Image.fromarray(np.full((_HEIGHT, max(width, 1), 3), 255, np.uint8))
    left = 0
    for sheet in sheets:
        montage.paste(sheet, (left, 0))
        left += sheet.width + _GAP
    return montage


def main(_: list[str]) -> None:
    readme = ROOT / "README.md"
    atomic_write(readme, with_results(readme.read_text()).encode())
    strip = pretrained.DIRECTORY / style_strip.PRESET / "strip.jpg"
    for path, image in ((PICTURE, picture()), (strip, style_strip.strip())):
        encoded = io.BytesIO()
        image.save(encoded, pictures.SUFFIXES[path.suffix], quality=90)
        atomic_write(path, encoded.getvalue())
    print(f"wrote {readme}, {PICTURE} and {strip}")


if __name__ == "__main__":
    binary.run(main)
