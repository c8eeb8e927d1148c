"""A small SavedModel with the signatures of the zoo's families and golden requests, and a server for it.

Test modules name this file in `pytest_plugins`: so the server is shared by all in a session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import saved_models
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.launch import LaunchedServer, launch

CONFIG = """
model_config_list {{
  config {{ name: "art" base_path: "{base}/art" model_platform: "tensorflow" }}
}}
"""


def _rows_of(dtype: tf.DType, name: str) -> tf.TensorSpec:
    return tf.TensorSpec([None], dtype, name)


def write_art(base: Path, version: int, bright: float = 0.5) -> Path:
    """`sample`: seed int64 [B], label int32 [B] (default -1) -> image float32 [B, 4, 4, 3], bright; label.

    `generate`: prompt string [B], seed int64 [B] -> text, "<prompt> #<seed>". `classify`: image float32
    [B, H, W, 3] -> label ("dark", "light"), probabilities [B, 2]. `stylize_bytes`: image_bytes, style
    (default "plain") -> image_bytes, the picture as a PNG. `harmonize`: seed -> notes int32 [B, 3, 4].
    """

    class Art(tf.Module):
        def __init__(self) -> None:
            self.bright = tf.Variable(bright)

        @tf.function(input_signature=[_rows_of(tf.int64, "seed"), _rows_of(tf.int32, "label")])
        def sample(
            self,
            seed: tf.Tensor,
            label: tf.Tensor = tf.constant([-1]),  # noqa: B008 (becomes the signature's default)
        ) -> dict[str, tf.Tensor]:
            image = tf.fill([tf.size(seed), 4, 4, 3], self.bright)
            return {"image": image, "label": tf.broadcast_to(label, tf.shape(seed))}

        @tf.function(input_signature=[_rows_of(tf.string, "prompt"), _rows_of(tf.int64, "seed")])
        def generate(self, prompt: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"text": tf.strings.join([prompt, " #", tf.strings.as_string(seed)])}

        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, "image")])
        def classify(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
            light = tf.reduce_mean(image, [1, 2, 3])
            label = tf.where(light > self.bright, "light", "dark")
            probabilities = tf.stack([1 - light, light], 1)
            return {"label": label, "probabilities": probabilities, "embedding": image[:, 0, 0]}

        @tf.function(input_signature=[_rows_of(tf.string, "image_bytes"), _rows_of(tf.string, "style")])
        def stylize_bytes(
            self,
            image_bytes: tf.Tensor,
            style: tf.Tensor = tf.constant(["plain"]),  # noqa: B008
        ) -> dict[str, tf.Tensor]:
            def one(data: tf.Tensor) -> tf.Tensor:
                return tf.io.encode_png(255 - tf.io.decode_png(data, 3))

            return {"image_bytes": tf.map_fn(one, image_bytes)}

        @tf.function(input_signature=[_rows_of(tf.int64, "seed")])
        def harmonize(self, seed: tf.Tensor) -> dict[str, tf.Tensor]:
            chord = tf.constant([[72, 67, 64, 48]] * 3)
            return {"notes": tf.tile(chord[None], [tf.size(seed), 1, 1])}

    model = Art()
    signatures = {
        "serving_default": model.sample,
        "sample": model.sample,
        "generate": model.generate,
        "classify": model.classify,
        "stylize_bytes": model.stylize_bytes,
        "harmonize": model.harmonize,
    }
    path = base / str(version)
    tf.saved_model.save(model, str(path), signatures=signatures)
    prompts = np.array([b"To be", b"Or"], object)
    write_golden(
        path,
        {
            "sample": ({"seed": np.array([0, 1]), "label": np.array([3, 4], np.int32)}, model.sample),
            "generate": ({"prompt": prompts, "seed": np.array([1, 2])}, model.generate),
            "classify": ({"image": np.full([2, 3, 5, 3], 0.75, np.float32)}, model.classify),
        },
    )
    return path


def write_golden(path: Path, requests: dict[str, tuple[dict[str, np.ndarray], Callable]]) -> None:
    """assets.extra/golden_requests of a version, as `serving.export` writes it."""
    (path / "assets.extra").mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path / "assets.extra" / "golden_requests")) as writer:
        for name, (arrays, function) in requests.items():
            inputs = {k: tf.constant(v.tolist() if v.dtype == object else v) for k, v in arrays.items()}
            log = prediction_log_pb2.PredictionLog()
            log.predict_log.request.model_spec.signature_name = name
            for key, tensor in inputs.items():
                log.predict_log.request.inputs[key].CopyFrom(tf.make_tensor_proto(tensor))
            for key, tensor in function(**inputs).items():
                log.predict_log.response.outputs[key].CopyFrom(tf.make_tensor_proto(tensor))
            writer.write(log.SerializeToString())


@pytest.fixture(scope="session")
def art_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of models: art, version 1."""
    base = tmp_path_factory.mktemp("art")
    write_art(base / "art", 1)
    return base


@pytest.fixture(scope="session")
def art_rest_port() -> int:
    return saved_models.free_port()


@pytest.fixture(scope="session")
def art_server(art_base: Path, art_rest_port: int) -> Iterator[LaunchedServer]:
    """The embedded server of `art`, by gRPC and REST."""
    config = art_base / "models.config"
    config.write_text(CONFIG.format(base=art_base))
    flags = [f"--rest_api_port={art_rest_port}", "--max_num_load_retries=0"]
    with launch(config, flags=flags) as launched:
        yield launched
