"""The resolutions of an encoder that halves an image and of the decoder that doubles it, and the residual
blocks (He et al. 2016, arXiv:1603.05027) at each. The autoencoder and the VAE are built of them."""

import keras

Shape = tuple[int, int, int]  # height, width, channels


def check_image_shape(image_shape: Shape) -> None:
    """Raises `ValueError` for an image that cannot be halved, or is neither grey nor in colour."""
    height, width, channels = image_shape
    if channels not in (1, 3):
        raise ValueError(f"image_shape={image_shape}: 1 or 3 channels expected")
    if height % 2 or width % 2 or min(height, width) < 6:
        raise ValueError(
            f"image_shape={image_shape}: the sides must be even and above 4; set data.image_size"
        )


def check_map(field: str, numbers: int, image_shape: Shape) -> None:
    """Raises `ValueError` if a code of so many numbers, the field's value, makes no map of the image."""
    height, width = smallest(image_shape)
    if numbers % (height * width):
        raise ValueError(
            f"{field}={numbers}: with hidden=0 a multiple of {height * width} is expected, the"
            f" places of a map of {image_shape}"
        )


def widths(image_shape: Shape, channels: int, max_channels: int) -> list[int]:
    """The width of each resolution, from half the image's down: doubled at each halving up to the largest.

    Sides are halved while both are even and above 4: 28 → 14 → 7, 64 → 32 → 16 → 8 → 4, 8 → 4.
    """
    height, width, _ = image_shape
    found = []
    while height % 2 == 0 and width % 2 == 0 and min(height, width) > 4:
        height, width = height // 2, width // 2
        found.append(min(channels, max_channels))
        channels *= 2
    return found


def smallest(image_shape: Shape) -> tuple[int, int]:
    """Height and width of the lowest resolution."""
    height, width, _ = image_shape
    halvings = len(widths(image_shape, 1, 1))
    return height >> halvings, width >> halvings


def conv(
    x: keras.KerasTensor, width: int, name: str, kernel: int = 3, stride: int = 1, zeros: bool = False
) -> keras.KerasTensor:
    """`[B, h, w, c]` → `[B, h / stride, w / stride, width]`; `zeros`: a kernel that starts at 0."""
    return keras.layers.Conv2D(
        width,
        kernel,
        strides=stride,
        padding="same",
        kernel_initializer="zeros" if zeros else "he_normal",
        name=name,
    )(x)


def relu(x: keras.KerasTensor, name: str) -> keras.KerasTensor:
    """max(x, 0)."""
    return keras.layers.ReLU(name=name)(x)


def blocks(x: keras.KerasTensor, count: int, name: str) -> keras.KerasTensor:
    """Pre-activation residual blocks that start as the identity and need no normalization for it."""
    width = x.shape[-1]
    for i in range(count):
        y = conv(relu(x, f"{name}_{i}_relu1"), width, f"{name}_{i}_conv1")
        y = conv(relu(y, f"{name}_{i}_relu2"), width, f"{name}_{i}_conv2", zeros=True)
        x = keras.layers.Add(name=f"{name}_{i}_add")([x, y])
    return x
