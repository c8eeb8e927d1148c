"""The README's picture of the kept stylizer: photos in every style, strengths, a blend, colours kept."""

import numpy as np
from PIL import Image
from skimage import data

import zoo
from zoo import images

PRESET = "stylizer_paintings"
_SIDE, _SHOWN, _GAP = 256, 112, 3  # pixels: painted, shown, between
_STRONG, _FROM, _TO, _KEPT = (
    "van_gogh_starry_night_1889",
    "munch_the_scream_1893",
    "picabia_udnie_1913",
    "hokusai_great_wave_1831",
)
_SHARES = np.linspace(0.0, 1.0, 5)


def _photo(name: str) -> np.ndarray:
    """One of scikit-image's photos, the largest square in its middle; float32 in `[0, 1]`."""
    photo = Image.fromarray(getattr(data, name)())
    side = min(photo.size)
    left, top = (photo.width - side) // 2, (photo.height - side) // 2
    square = photo.crop((left, top, left + side, top + side)).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return np.asarray(square, np.float32) / 255.0


def strip() -> Image.Image:
    """Three photos, each followed by itself in every style in the order of the card; below, from the left:
    strengths from 0 to 1, a blend from one style into another, and the first two photos painted in their own
    colours."""
    model = zoo.from_pretrained(PRESET)
    styles = model.config.styles
    one = dict(zip(styles, np.eye(len(styles), dtype=np.float32), strict=True))
    photos = [_photo(name) for name in ("astronaut", "chelsea", "coffee")]
    rows = [[photo, *(model.paint(photo, one[style]) for style in styles)] for photo in photos]
    last = [model.paint(photos[0], share * one[_STRONG]) for share in _SHARES]
    last += [model.paint(photos[1], (1 - share) * one[_FROM] + share * one[_TO]) for share in _SHARES]
    last += [images.with_color_of(model.paint(photo, one[_KEPT]), photo).numpy() for photo in photos[:2]]
    step = _SHOWN + _GAP
    columns = max(len(row) for row in [*rows, last])
    sheet = Image.new("RGB", (columns * step - _GAP, (len(rows) + 1) * step - _GAP), "white")
    for y, row in enumerate([*rows, last]):
        for x, picture in enumerate(row):
            tile = Image.fromarray(np.round(picture * 255.0).astype(np.uint8))
            sheet.paste(tile.resize((_SHOWN, _SHOWN), Image.Resampling.LANCZOS), (x * step, y * step))
    return sheet
