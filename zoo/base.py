"""The contract that every model family keeps; the design's "family contract" in code.

A family module exposes two names: `Config`, a dataclass, and `Model(config)`, a subclass of the
`Model` below. Everything around it (trainer, exporter, evaluation, conformance tests) works on this
class alone.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

# What `tf.function` returns for a function of named tensors; TensorFlow has no type for it.
Signature = Any


@dataclasses.dataclass(frozen=True)
class Embedding:
    """Points of a space that a model has learnt, for TensorBoard's projector."""

    vectors: np.ndarray  # float32 [N, D]
    labels: tuple[str, ...]  # N
    images: np.ndarray | None = None  # float32 [N, H, W, C] in [0, 1]


# A sheet of images float32 `[rows, columns, H, W, C]` in `[0, 1]`, text, notes int32 `[T, voices]` (MIDI), or
# points.
Preview = np.ndarray | str | Embedding


class Exportable(Protocol):
    """What the exporter asks of a model: every `Model` has it, and what cannot be trained (`zoo.gatys`)."""

    limits: str

    def signatures(self) -> dict[str, Signature]:
        """See `Model.signatures`."""

    def example_requests(self) -> dict[str, dict[str, np.ndarray]]:
        """See `Model.example_requests`."""


class Judged(Protocol):
    """What evaluation asks of a model: what an export has, too."""

    config: Any
    learns: str

    def signatures(self) -> dict[str, Signature]:
        """See `Model.signatures`."""


class Model(keras.Model, abc.ABC):
    """A `keras.Model` with named losses, previews and serving signatures.

    Subclasses build their networks in `__init__`, set `self.built = True` there (so that variables
    exist before the optimizer and the first step) and override the methods below.
    """

    learns = "images"  # the kind of data: images, text or music
    mixed_precision = True  # it can learn in bfloat16 and float16
    xla = True  # its step can be compiled as a whole
    smallest_batch = 1  # of all replicas together
    showpiece = ""  # the preview that is all the model's own work, fit to be published
    limits: str  # what it is good for and what not, for its model card

    def __init__(self, config: Any, seed: int = 0):
        super().__init__()
        self.config = config
        self.seed = seed
        # Keras keeps the state of its own random generators out of every checkpoint; this counter
        # is an ordinary weight, so a resumed run draws the noise the killed one would have drawn.
        self.noise_step = self.add_weight(
            name="noise_step", shape=(), dtype="int64", initializer="zeros", trainable=False
        )

    @property
    @abc.abstractmethod
    def losses_tracked(self) -> tuple[keras.metrics.Mean, ...]:
        """The running means that `train_step` and `test_step` update, one for each named loss."""

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Keras resets these at the start of each epoch and each evaluation."""
        return list(self.losses_tracked)

    def compile(self, optimizer: keras.optimizers.Optimizer) -> None:
        """As `keras.Model.compile`, with the optimizer's own variables made at once: a checkpoint needs them
        before the first step. A family with several optimizers overrides it."""
        super().compile(optimizer=optimizer, jit_compile=False)
        optimizer.build(self.trainable_variables)

    @property
    def optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        """Every optimizer by name, for checkpoints. Empty before `compile`."""
        return {} if self.optimizer is None else {"optimizer": self.optimizer}

    @property
    @abc.abstractmethod
    def networks(self) -> dict[str, keras.Model]:
        """The networks that inference needs, by name: what `zoo/weights` and an export hold."""

    @abc.abstractmethod
    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """One update on one replica's batch; returns the running means by name.

        Gradients are divided by the replica count, because a Keras optimizer sums over replicas.
        """

    @abc.abstractmethod
    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """The losses of one batch with the weights that would be served."""

    @abc.abstractmethod
    def preview(self, seed: int, examples: tuple[np.ndarray, ...]) -> dict[str, Preview]:
        """What there is to look at, or listen to, by name.

        The same seed and examples (a few held-out rows) ask the same question at every step, so that
        a row of previews shows one thing getting better.
        """

    @abc.abstractmethod
    def signatures(self) -> dict[str, Signature]:
        """Name → `tf.function` with a named, typed input signature that returns a dict of tensors.

        The first is also `serving_default`. Every input has a leading batch dimension; rows do not
        see each other; an argument with a default may be left out, or be of length 1 for all rows.
        """

    @abc.abstractmethod
    def example_requests(self) -> dict[str, dict[str, np.ndarray]]:
        """A small valid request for each signature: the golden requests that an export carries."""

    def load_inference_weights(self) -> None:
        """Called after `networks` were filled from kept weights."""

    def _gradients(
        self,
        tape: tf.GradientTape,
        loss: tf.Tensor,
        variables: list[keras.Variable],
        optimizer: keras.optimizers.Optimizer,
    ) -> list[tf.Tensor]:
        """The gradients of a replica's mean loss, as `optimizer.apply` wants them.

        Divided by the replica count, because a Keras optimizer sums over replicas; times the scale of a
        `LossScaleOptimizer`, which divides by it again, so that float16 does not round them to zero.
        """
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        factor = optimizer.scale_loss(tf.constant(1.0 / replicas))
        return tape.gradient(loss, variables, output_gradients=factor)

    def _learn(self, tape: tf.GradientTape, loss: tf.Tensor) -> None:
        """Ends a training step of a model with one optimizer: updates what `loss` depends on."""
        variables = self.trainable_variables
        self.optimizer.apply(self._gradients(tape, loss, variables, self.optimizer), variables)
        self._advance()

    def _advance(self) -> None:
        """Ends a training step: the next one draws other noise."""
        self.noise_step.assign_add(1)

    def _means(self) -> dict[str, tf.Tensor]:
        """What a step returns: the running means by name."""
        return {m.name: m.result() for m in self.losses_tracked}


def embedded(
    embed: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    examples: tuple[np.ndarray, ...],
    class_names: tuple[str, ...] = (),
) -> Embedding:
    """Where `embed` puts images: it takes batches of (image `[B, H, W, C]`, label int `[B]`) and returns
    `[B, D]`."""
    image, label = examples[:2]
    batches = [slice(start, start + 64) for start in range(0, len(image), 64)]
    vectors = [embed(tf.constant(image[rows]), tf.constant(label[rows])).numpy() for rows in batches]
    labels = tuple(class_names[number] if class_names else str(number) for number in label)
    return Embedding(np.concatenate(vectors).astype(np.float32), labels, image)
