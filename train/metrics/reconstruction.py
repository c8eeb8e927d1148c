"""How an autoencoder is judged: beside PCA, classical denoisers and JPEG, each on the same test images."""

import io
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from PIL import Image
from skimage import filters, restoration
from sklearn.decomposition import PCA

from train.data.images import ImageData, to_array, to_pil
from train.metrics.slices import by_class
from zoo import autoencoder, base, rng

SIGMA = 0.2  # of the noise that the classical denoisers are compared at
DENOISED = 1_000  # test images for denoising and JPEG, at most
# Training images on which the classical denoisers' parameters are chosen: 200 of 28x28, 50 of larger ones,
# on which non-local means takes a tenth of a second each.
TUNED_VALUES, TUNED_LEAST = 200 * 28 * 28, 50
# What each corruption is judged at: half of the strongest that the denoiser is trained at.
STRENGTHS = {name: strongest / 2 for name, (_, strongest, _) in autoencoder.CORRUPTIONS.items()}

_BATCH = 250
_PEAK = 1e-10  # an error below counts as this one: 100 dB, not infinity


def mse(images: NDArray[Any], answers: NDArray[Any]) -> float:
    """Mean over images and pixels of (answer - image)²; both float [N, H, W, C]."""
    return float(np.mean(np.square(np.asarray(answers, np.float64) - images)))


def psnr(images: NDArray[Any], answers: NDArray[Any]) -> float:
    """Mean over the images of 10 log10(1 / MSE), in dB, for values in [0, 1]."""
    errors = np.mean(np.square(np.asarray(answers, np.float64) - images), axis=(1, 2, 3))
    return float(np.mean(-10.0 * np.log10(np.maximum(errors, _PEAK))))


def report(model: base.Judged, data: ImageData) -> dict[str, Any]:
    """All figures of an autoencoder.

    Args:
        model: of family `autoencoder`; its signatures answer.
        data: what it was trained on.

    Returns:
        JSON values; `slices` holds `mse` by class, `metrics` the numbers by name:
        `mse`, `psnr` of `reconstruct` over the test split, `pca_mse` of as many principal components;
        `<corruption>_psnr` of `denoise` and `<corruption>_before_psnr` of what it was given; for Gaussian
        noise of `SIGMA` `median_psnr`, `nl_means_psnr`, `bilateral_psnr`, and `denoise_gain_db`, what
        `denoise` has over the best of them;
        `bytes_per_image` and `compressed_psnr` of `compress` and `decompress`, `jpeg_bytes` that JPEG needs
        for that PSNR, `jpeg_scan_bytes` of them without header and tables, and how many times
        `bytes_per_image` the two are.
    """
    train, test = (_floats(split.images) for split in (data.train, data.test))
    signatures = model.signatures()
    reconstructed = _answers(signatures["reconstruct"], image=test)
    errors = np.mean(np.square(np.asarray(reconstructed, np.float64) - test), axis=(1, 2, 3))
    some = _pick(test, DENOISED, seed=0)
    tuned = max(TUNED_VALUES // train[0].size, TUNED_LEAST)
    return {
        "metrics": {
            "mse": mse(test, reconstructed),
            "psnr": psnr(test, reconstructed),
            "pca_mse": mse(test, principal_components(train, test, model.config.code_dim)),
            **_denoising(signatures, _pick(train, min(tuned, 200), seed=1), some),
            **_compression(signatures, some),
        },
        "slices": {"mse": by_class(errors, data.test.labels, data.class_names)},
        "n_test": len(test),
        "n_denoised": len(some),
        "strengths": STRENGTHS,
    }


def _floats(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return images.astype(np.float32) / np.float32(255)


def _pick(images: NDArray[Any], count: int, seed: int) -> NDArray[Any]:
    """The same images on every run; sets sorted by class must not bias them."""
    return images[np.random.default_rng(seed).permutation(len(images))[:count]]


def _answers(signature: base.Signature, **inputs: Any) -> NDArray[Any]:
    """The one output of a signature for any number of rows."""
    answers = []
    for i in range(0, len(next(iter(inputs.values()))), _BATCH):
        (answer,) = signature(**{k: tf.constant(v[i : i + _BATCH]) for k, v in inputs.items()}).values()
        answers.append(answer.numpy())
    return np.concatenate(answers)


def principal_components(
    train: NDArray[Any], test: NDArray[Any], count: int
) -> NDArray[Any]:
    """Test images from their first `count` principal components, fitted on the training images; not cut off
    at 0 and 1, as in published figures."""
    flat = train.reshape(len(train), -1)
    pca = PCA(min(count, *flat.shape), svd_solver="randomized", random_state=0).fit(flat)
    found = pca.inverse_transform(pca.transform(test.reshape(len(test), -1)))
    return found.reshape(test.shape)


# Denoising --------------------------------------------------------------------------------------


def corrupted(images: NDArray[Any], kind: str, strength: float, seed: int) -> NDArray[Any]:
    """Images [N, H, W, C] spoilt as the denoiser's training images are; the same seed, the same noise."""
    width = autoencoder.noise_width(images.shape[1:])
    spoilt = []
    for i in range(0, len(images), _BATCH):
        batch = tf.constant(images[i : i + _BATCH])
        rows = batch.shape[0]
        noise = rng.row_normal(tf.range(i, i + rows, dtype=tf.int64) + 1_000_000 * seed, width)
        index = tf.fill([rows], list(autoencoder.CORRUPTIONS).index(kind))
        spoilt.append(autoencoder.corrupt(batch, index, tf.fill([rows], strength), noise).numpy())
    return np.concatenate(spoilt)


def _median(image: NDArray[Any], footprint: Any) -> NDArray[Any]:
    return np.stack([filters.median(image[..., c], footprint) for c in range(image.shape[-1])], axis=-1)


def _nl_means(image: NDArray[Any], patch: int, distance: int, h: float, sigma: float) -> NDArray[Any]:
    flat, axis = _squeezed(image)
    return restoration.denoise_nl_means(
        flat, patch, distance, h, sigma=sigma, fast_mode=False, channel_axis=axis
    )


def _bilateral(image: NDArray[Any], color: float, spatial: float, mode: str) -> NDArray[Any]:
    flat, axis = _squeezed(image)
    return restoration.denoise_bilateral(
        flat, sigma_color=color, sigma_spatial=spatial, mode=mode, channel_axis=axis
    )


def _squeezed(image: NDArray[Any]) -> tuple[NDArray[Any], int | None]:
    """As scikit-image wants it: a grey image has no axis of channels. And which axis that is."""
    return (image[..., 0], None) if image.shape[-1] == 1 else (image, -1)


_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)
# name → function, the parameters to choose from
CLASSICAL: dict[str, tuple[Callable[..., NDArray[Any]], list[tuple[Any, ...]]]] = {
    "median": (_median, [(_CROSS,), (np.ones((3, 3), bool),), (np.ones((5, 5), bool),)]),
    "nl_means": (
        _nl_means,
        [
            (patch, distance, h * SIGMA, sigma)
            for patch, distance, (h, sigma) in itertools.product(
                (5, 7), (3, 5), ((0.6, SIGMA), (0.8, SIGMA), (0.8, 0.0), (1.0, 0.0))
            )
        ],
    ),
    "bilateral": (
        _bilateral,
        list(itertools.product((0.1, 0.2, 0.3, 0.5), (1.0, 1.5, 2.0, 3.0), ("constant", "edge"))),
    ),
}


def classical_denoisers(
    train: NDArray[Any], noisy_train: NDArray[Any], test: NDArray[Any], noisy_test: NDArray[Any]
) -> dict[str, float]:
    """`<name>_psnr` on the test images of each of `CLASSICAL`, with the parameters best on the training
    images. They are told the noise's strength by that; the trained denoiser is not."""
    found = {}
    for name, (function, choices) in CLASSICAL.items():

        def denoised(noisy, parameters, function=function):
            found = np.stack([function(image, *parameters) for image in noisy])
            return np.clip(found, 0.0, 1.0).reshape(noisy.shape)

        scores = [psnr(train, denoised(noisy_train, parameters)) for parameters in choices]
        found[f"{name}_psnr"] = psnr(test, denoised(noisy_test, choices[int(np.argmax(scores))]))
    return found


def _denoising(
    signatures: Mapping[str, base.Signature], train: NDArray[Any], test: NDArray[Any]
) -> dict[str, float]:
    found = {}
    for kind, strength in STRENGTHS.items():
        spoilt = corrupted(test, kind, strength, seed=0)
        found[f"{kind}_before_psnr"] = psnr(test, spoilt)
        found[f"{kind}_psnr"] = psnr(test, _answers(signatures["denoise"], image=spoilt))
    classical = classical_denoisers(
        train,
        corrupted(train, "gaussian", SIGMA, seed=1),
        test,
        corrupted(test, "gaussian", SIGMA, seed=0),
    )
    return found | classical | {"denoise_gain_db": found["gaussian_psnr"] - max(classical.values())}


# Compression ------------------------------------------------------------------------------------


def _compression(signatures: Mapping[str, base.Signature], images: NDArray[Any]) -> dict[str, float]:
    pictures = [to_pil(np.round(image * 255).astype(np.uint8)) for image in images]
    sent = _answers(signatures["compress"], image_bytes=[_encoded(p, "PNG") for p in pictures])
    back = _answers(signatures["decompress"], code_bytes=sent)
    answers = np.stack([_decoded(picture) for picture in back])
    size = float(np.mean([len(code) for code in sent]))
    reached = psnr(images, answers)
    jpeg, scan = jpeg_bytes(images, reached)
    return {
        "bytes_per_image": size,
        "compressed_psnr": reached,
        "jpeg_bytes": jpeg,
        "jpeg_scan_bytes": scan,
        "jpeg_ratio": jpeg / size,
        "jpeg_scan_ratio": scan / size,
    }


def jpeg_bytes(images: NDArray[Any], wanted: float) -> tuple[float, float]:
    """Mean bytes of the images as JPEG files of the lowest quality whose mean PSNR is at least `wanted` dB,
    and of their scans alone.

    A small JPEG is mostly header and tables, which a sender of many could leave out; the scan is what is
    left. Huffman tables are optimised for each image. Past quality 100 there is none: that one's bytes.
    """
    pictures = [to_pil(np.round(image * 255).astype(np.uint8)) for image in images]

    def at(quality: int) -> tuple[float, list[bytes]]:
        files = [_encoded(p, "JPEG", quality=quality, optimize=True) for p in pictures]
        return psnr(images, np.stack([_decoded(f) for f in files])), files

    low, high = 1, 100
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if at(middle)[0] >= wanted else (middle + 1, high)
    files = at(low)[1]
    return float(np.mean([len(f) for f in files])), float(np.mean([_scan_bytes(f) for f in files]))


def _scan_bytes(jpeg: bytes) -> int:
    """The entropy-coded bytes of a baseline JPEG: what follows its one start-of-scan segment, without the
    end-of-image marker."""
    at = 2
    while jpeg[at : at + 2] != b"\xff\xda":
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])
    return len(jpeg) - 2 - (at + 2 + int.from_bytes(jpeg[at + 2 : at + 4]))


def _encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def _decoded(encoded: bytes) -> NDArray[np.float32]:
    return _floats(to_array(Image.open(io.BytesIO(encoded))))
