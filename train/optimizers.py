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


def make(
    config: config_lib.Optimizer, steps: int, precision: config_lib.Precision = config_lib.Precision.FLOAT32
) -> keras.optimizers.Optimizer:
    """The optimizer of a run of `steps` steps."""
    rate = Rate(config.learning_rate, config.schedule, steps, config.warmup_steps)
    if config.name == config_lib.OptimizerName.ADAMW:
        optimizer = AdamW(rate, weight_decay=config.weight_decay, beta_1=config.beta_1)
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
