"""Encoded pictures inside a graph."""

import tensorflow as tf

MOST_PIXELS = 100_000_000  # as declared by the file: more would take gigabytes to decode
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
_HEAD = 65536 + 4096  # bytes of a JPEG file that its first EXIF segment lies in, behind a JFIF segment
_ORIENTATION = 0x0112  # the tag (EXIF 2.3, section 4.6.4)
_MOST_TAGS = 256


def decode_image(encoded: tf.Tensor, most_pixels: int = MOST_PIXELS, channels: int = 3) -> tf.Tensor:
    """A PNG, JPEG, GIF, BMP or WebP string `[]` → float32 `[H, W, channels]` in `[0, 1]`.

    JPEGs stand upright by their EXIF orientation; of an animation the first picture counts.

    Args:
        most_pixels: a file that declares more is not decoded.

    Raises:
        tf.errors.InvalidArgumentError: for a string that is no picture, is damaged or declares too many
            pixels, when the graph runs.
    """
    pixels = _declared_pixels(encoded)
    message = f"the picture declares too many pixels; at most {most_pixels} are decoded; it declares: "
    with tf.control_dependencies([tf.debugging.Assert(pixels <= most_pixels, [message, pixels])]):
        image = tf.io.decode_image(tf.identity(encoded), channels=channels, expand_animations=False)
    image.set_shape([None, None, channels])
    return _upright(tf.cast(image, tf.float32) / 255.0, _orientation(encoded))


def decode_images(image_bytes: tf.Tensor, image_shape: tuple[int, int, int]) -> tf.Tensor:
    """Strings `[B]` as `decode_image` takes them → float32 `[B, H, W, C]` in `[0, 1]`.

    Each picture is decoded by itself, so one batch may mix formats and sizes, and is resized with
    antialiasing to `image_shape`; its aspect ratio is not kept, as in training.
    """
    height, width, channels = image_shape

    def decode(encoded: tf.Tensor) -> tf.Tensor:
        image = decode_image(encoded, channels=channels)
        image = tf.image.resize(image, [height, width], antialias=True)
        return tf.clip_by_value(image, 0.0, 1.0)

    return tf.map_fn(decode, image_bytes, fn_output_signature=tf.TensorSpec(image_shape, tf.float32))


def with_color_of(image: tf.Tensor, photo: tf.Tensor) -> tf.Tensor:
    """The luminance of one picture `[H, W, 3]` with the colour differences of another, as
    `gatys.with_luminance`."""
    weights = tf.constant(LUMINANCE)
    differences = photo - tf.tensordot(photo, weights, 1)[..., None]
    light = tf.tensordot(image, weights, 1)
    light = tf.maximum(light, -tf.reduce_min(differences, axis=-1))
    light = tf.minimum(light, 1.0 - tf.reduce_max(differences, axis=-1))
    return tf.clip_by_value(differences + light[..., None], 0.0, 1.0)


# Headers ----------------------------------------------------------------------------------------


def _number(data: tf.Tensor, at: tf.Tensor | int, count: int, little: tf.Tensor | bool) -> tf.Tensor:
    """Unsigned numbers of `count` bytes at the places `at` of bytes int64 `[N]`; 0 beyond their end."""
    places = tf.cast(at, tf.int64)[..., None] + tf.range(count, dtype=tf.int64)
    size = tf.size(data, tf.int64)
    found = tf.where(places < size, tf.gather(data, tf.clip_by_value(places, 0, size - 1)), 0)
    weights = [1 << 8 * i for i in range(count)]
    factors = tf.where(little, tf.constant(weights, tf.int64), tf.constant(weights[::-1], tf.int64))
    return tf.reduce_sum(found * factors, axis=-1)


def _bytes(encoded: tf.Tensor, count: int) -> tf.Tensor:
    """The first bytes of a string as int64 `[N]`, and a zero."""
    head = tf.strings.substr(encoded, 0, tf.minimum(tf.strings.length(encoded), count))
    return tf.pad(tf.cast(tf.io.decode_raw(head, tf.uint8), tf.int64), [[0, 1]])


def _starts(encoded: tf.Tensor, magic: bytes) -> tf.Tensor:
    return tf.equal(tf.strings.substr(encoded, 0, tf.minimum(tf.strings.length(encoded), len(magic))), magic)


def _is_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    return _starts(encoded, b"\xff\xd8\xff")


def _declared_pixels(encoded: tf.Tensor) -> tf.Tensor:
    """Width times height by the file's header, int64 `[]`; 0 where there is none."""
    head = _bytes(encoded, 30)

    def product(width, height, count, little, mask=-1):
        sides = [tf.bitwise.bitwise_and(_number(head, at, count, little), mask) for at in (width, height)]
        return sides[0] * sides[1]

    def jpeg():
        return tf.reduce_prod(tf.cast(tf.image.extract_jpeg_shape(encoded)[:2], tf.int64))

    none = tf.constant(0, tf.int64)
    webp = _starts(encoded, b"RIFF")
    kind = tf.strings.substr(encoded, tf.minimum(12, tf.strings.length(encoded)), 4)
    # Lossless: 14 bits each from byte 21 on, one less than the side.
    packed = _number(head, 21, 4, True)
    lossless = (packed % 2**14 + 1) * (packed // 2**14 % 2**14 + 1)
    extended = (_number(head, 24, 3, True) + 1) * (_number(head, 27, 3, True) + 1)
    simple = product(26, 28, 2, True, 2**14 - 1)
    of_webp = tf.where(kind == b"VP8X", extended, tf.where(kind == b"VP8L", lossless, simple))
    others = tf.where(webp, of_webp, none)
    others = tf.where(_starts(encoded, b"BM"), product(18, 22, 4, True, 2**31 - 1), others)
    others = tf.where(_starts(encoded, b"GIF8"), product(6, 8, 2, True), others)
    others = tf.where(_starts(encoded, b"\x89PNG"), product(16, 20, 4, False), others)
    return tf.cond(_is_jpeg(encoded), jpeg, lambda: others)


def _orientation(encoded: tf.Tensor) -> tf.Tensor:
    """A JPEG's EXIF orientation, 1 to 8, int64 `[]`; 1 (upright) where it says nothing of the kind."""

    def read():
        data = _bytes(encoded, _HEAD)
        name = b"Exif\0\0"
        last = tf.maximum(tf.size(data) - len(name) + 1, 0)
        here = tf.reduce_all([data[i : last + i] == code for i, code in enumerate(name)], axis=0)
        start = tf.argmax(tf.cast(tf.concat([here, [False]], 0), tf.int32)) + len(name)
        little = _number(data, start, 1, True) == ord("I")
        directory = start + _number(data, start + 4, 4, little)
        count = tf.minimum(_number(data, directory, 2, little), _MOST_TAGS)
        entries = directory + 2 + 12 * tf.range(count)
        values = _number(data, entries + 8, 2, little)
        found = tf.boolean_mask(values, _number(data, entries, 2, little) == _ORIENTATION)
        value = tf.concat([found, [1]], 0)[0]
        return tf.where(tf.reduce_any(here) & (value >= 1) & (value <= 8), value, 1)

    return tf.cond(_is_jpeg(encoded), read, lambda: tf.constant(1, tf.int64))


def _upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    def has(*values: int) -> tf.Tensor:
        return tf.reduce_any(orientation == tf.constant(values, tf.int64))

    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    image = tf.cond(has(2, 3, 6, 7), lambda: image[:, ::-1], lambda: image)
    return tf.cond(has(3, 4, 7, 8), lambda: image[::-1], lambda: image)
