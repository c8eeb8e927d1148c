"""Optimizers and learning rate schedules from a configuration."""

import contextlib
import math
from collections.abc import Iterator

import keras
import tensorflow as tf

from train import config as config_lib


@keras.saving.register_keras_serializable("atelier")
class Rate(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then one of `config.Schedule`; a function of the step alone."""

    def __init__(self, base: float, schedule: str, steps: int, warmup_steps: int):
        super().__init__()
        self.base, self.schedule = base, config_lib.Schedule(schedule)
        self.steps, self.warmup_steps = steps, warmup_steps

    def __call__(self, step) -> tf.Tensor:
        step = tf.cast(step, tf.float32)
        done = tf.minimum(step / self.steps, 1.0)
        if self.schedule == config_lib.Schedule.COSINE:
            factor = 0.5 * (1.0 + tf.cos(math.pi * done))
        elif self.schedule == config_lib.Schedule.LINEAR_TAIL:
            factor = 1.0 - 0.9 * tf.maximum(2.0 * done - 1.0, 0.0)
        else:
            factor = tf.ones_like(done)
        warm = tf.minimum((step + 1.0) / (self.warmup_steps + 1.0), 1.0)
        return self.base * factor * warm

    def get_config(self) -> dict:
        return {
            "base": self.base,
            "schedule": str(self.schedule),
            "steps": self.steps,
            "warmup_steps": self.warmup_steps,
        }


@keras.saving.register_keras_serializable("atelier")
class Adam(keras.optimizers.Adam):
    """Adam whose update is one operation for each variable, which reads and writes every number once: Keras
    makes a dozen of it, and of a wide dense layer that time is the memory's. The result is the same, but for
    rows of a table that a batch looks up several times: their gradients are summed before they are squared,
    as in the paper; Keras sums the squares."""

    def update_step(self, gradient, variable, learning_rate):
        if self.amsgrad:
            super().update_step(gradient, variable, learning_rate)
            return
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=self.beta_1**step,
            beta2_power=self.beta_2**step,
            lr=tf.cast(learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=tf.cast(tf.convert_to_tensor(gradient), variable.dtype),
        )


@keras.saving.register_keras_serializable("atelier")
class AdamW(Adam, keras.optimizers.AdamW):
    """Decay pulls kernels toward zero; biases and normalization scales have nothing to shrink."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.exclude_from_weight_decay(var_names=["bias", "beta", "gamma"])


@keras.saving.register_keras_serializable("atelier")
class Muon(Adam):
    """Muon of the kernels of convolutions, each flattened to a matrix by its last axis, the channels out (in,
    of a transposed one); Adam of all else and of the last such kernel, which is taken for the output's.
    `keras.optimizers.Muon` does matrices alone.

    Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks"
    (https://kellerjordan.github.io/posts/muon); the size of its steps is that of Liu et al. 2025, "Muon is
    Scalable for LLM Training" (arXiv:2502.16982), 2.2: about as large as Adam's.
    """

    def __init__(self, *args, momentum: float = 0.95, adam_ratio: float = 1 / 6, **kwargs):
        """`adam_ratio`: Adam's learning rate over Muon's."""
        super().__init__(*args, **kwargs)
        self.momentum, self.adam_ratio = momentum, adam_ratio

    def build(self, variables):
        super().build(variables)
        self._output = max((i for i, v in enumerate(variables) if len(v.shape) == 4), default=None)

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        if len(variable.shape) != 4 or index == self._output:
            super().update_step(gradient, variable, self.adam_ratio * learning_rate)
            return
        gradient = tf.cast(gradient, variable.dtype)
        mean = self._momentums[index]
        self.assign(mean, self.momentum * mean + (1.0 - self.momentum) * gradient)
        ahead = self.momentum * mean + (1.0 - self.momentum) * gradient  # Nesterov
        rows, columns = math.prod(variable.shape[:3]), variable.shape[3]
        step = orthogonalized(tf.reshape(ahead, [rows, columns]))
        rate = tf.cast(learning_rate, variable.dtype) * 0.2 * math.sqrt(max(rows, columns))
        self.assign_sub(variable, rate * tf.reshape(step, variable.shape))

    def get_config(self) -> dict:
        return super().get_config() | {"momentum": self.momentum, "adam_ratio": self.adam_ratio}


def orthogonalized(matrix: tf.Tensor) -> tf.Tensor:
    """Nearly UV' of a matrix USV': its singular values are brought to between 0.7 and 1.2, those below a
    500th of its norm less far, by five steps of Newton and Schulz (coefficients: Jordan et al. 2024). A
    matrix of zeros stays one."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = tf.transpose(matrix) if tall else matrix
    x /= tf.norm(x) + 1e-7
    for _ in range(5):
        square = tf.matmul(x, x, transpose_b=True)
        x = 3.4445 * x + tf.matmul(-4.7750 * square + 2.0315 * tf.matmul(square, square), x)
    return tf.transpose(x) if tall else x


def make(
    config: config_lib.Optimizer, steps: int, precision: config_lib.Precision = config_lib.Precision.FLOAT32
) -> keras.optimizers.Optimizer:
    """The optimizer of a run of `steps` steps."""
    rate = Rate(config.learning_rate, config.schedule, steps, config.warmup_steps)
    if config.name == config_lib.OptimizerName.ADAMW:
        optimizer = AdamW(rate, weight_decay=config.weight_decay, beta_1=config.beta_1)
    elif config.name == config_lib.OptimizerName.MUON:
        optimizer = Muon(rate, beta_1=config.beta_1)
    else:
        optimizer = Adam(rate, beta_1=config.beta_1)
    if precision == config_lib.Precision.FLOAT16:
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


@contextlib.contextmanager
def computing_in(precision: config_lib.Precision) -> Iterator[None]:
    """Layers made within compute in `precision`; their weights are float32."""
    before = keras.config.dtype_policy()
    mixed = precision != config_lib.Precision.FLOAT32
    keras.config.set_dtype_policy(f"mixed_{precision}" if mixed else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
