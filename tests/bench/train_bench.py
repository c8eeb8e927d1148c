"""Training steps: this project against the same networks in PyTorch, and as keras.io's examples train them.

    make bench-train            (or: python tests/bench/train_bench.py [--models=cnn,vae] [--rounds=1])

The GAN (preset gan_mnist), the classifier (cnn_mnist), the VAE (vae_mnist) at 28x28 and language models of
two layers of 256 units; one thread each, in separate processes that take turns; the figure is rows (images,
or characters) per second of CPU time (`time.process_time`, which counts every thread), so that a busy machine
does not tilt it; of the rounds the least disturbed one counts. keras.io's way is `compile` and `fit` on numpy
arrays; its GAN draws fakes twice a step and has no averaged weights.

Then the trainer itself: CPU time of a step in `train.loop`, logs and all, over that of a bare `tf.function`
of the step in a Python loop on the same data; the two take turns in one process, a few steps each. Writes
`tests/bench/results/train.json`.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np

from zoo.files import write_json

BATCH, CLASSES = 64, 10
LATENT, CHANNELS, EMA_DECAY = 64, 64, 0.999  # the GAN's, as in the presets gan_mnist and gan_fashion
UNITS, LAYERS, EMBEDDING, LENGTH = 256, 2, 64, 128
ALPHABET = "\n" + "".join(map(chr, range(33, 97)))  # 65 symbols, as many as tinyshakespeare has
# Rows of a batch, what a row counts for, steps that are timed.
MODELS = {
    "gan": (BATCH, 1, 20),
    "cnn": (128, 1, 6),
    "vae": (128, 1, 30),
    "lstm": (64, LENGTH, 3),
    "gru": (64, LENGTH, 3),
}
CONVOLUTIONAL = ("gan", "cnn", "vae")  # the recurrent families learn in float32 alone
LOOP_STEPS, LOOP_BATCH = 1000, 128  # of cnn_digits: about ten milliseconds a step
RESULTS = pathlib.Path(__file__).parent / "results" / "train.json"
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
}


def batch(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Image float32 [B, 28, 28, 1] in [0, 1] and label int32 [B], or symbols int32 [B, T] and those that
    follow; what they show does not matter."""
    random, rows = np.random.default_rng(0), MODELS[name][0]
    if name not in CONVOLUTIONAL:
        ids = random.integers(0, len(ALPHABET), (rows, LENGTH + 1)).astype(np.int32)
        return ids[:, :-1], ids[:, 1:]
    image = random.random((rows, 28, 28, 1), dtype=np.float32)
    return image, random.integers(0, CLASSES, rows).astype(np.int32)


def speed(name: str) -> Callable[[Callable[[int], None]], float]:
    """A function that times a function of the number of steps: rows per CPU second."""
    rows, worth, steps = MODELS[name]

    def of(run_steps: Callable[[int], None]) -> float:
        run_steps(max(2, steps // 4))
        seconds = []
        for _ in range(3):
            start = time.process_time()
            run_steps(steps)
            seconds.append(time.process_time() - start)
        return steps * rows * worth / min(seconds)

    return of


# TensorFlow -------------------------------------------------------------------------------------


def ours(name: str) -> Any:
    """The project's model."""
    from train import presets
    from zoo import cnn, gan, rnn, vae

    if name == "gan":
        return gan.Model(gan.Config(latent_dim=LATENT, channels=CHANNELS, ema_decay=EMA_DECAY))
    if name in ("cnn", "vae"):
        return {"cnn": cnn, "vae": vae}[name].Model(presets.load(f"{name}_mnist").model)
    sizes = {"units": UNITS, "layers": LAYERS, "embedding": EMBEDDING, "dropout": 0.2}
    return rnn.Model(rnn.Config(alphabet=ALPHABET, cell=rnn.Cell(name), **sizes))


def learnt(model: Any) -> int:
    """How many numbers the model learns."""
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def tensorflow_side(name: str) -> dict[str, Any]:
    import tensorflow as tf

    from train import config, optimizers

    speeds: dict[str, float] = {}
    for precision in (config.Precision.FLOAT32, config.Precision.BFLOAT16):
        if precision != config.Precision.FLOAT32 and name not in CONVOLUTIONAL:
            continue
        with optimizers.computing_in(precision):
            model = ours(name)
            model.compile(optimizers.AdamW(1e-3))
        iterator = iter(tf.data.Dataset.from_tensors(batch(name)).repeat())

        @tf.function
        def run_steps(iterator, count, model=model):
            for _ in tf.range(count):
                model.train_step(next(iterator))

        speeds[f"{precision}, zoo"] = speed(name)(
            lambda n, run=run_steps, it=iterator: run(it, tf.constant(n))
        )
        losses = [float(m.result()) for m in model.losses_tracked]
    return {
        "version": metadata.version("tensorflow"),
        "parameters": learnt(model),
        "losses": losses,
        "speed": speeds,
    }


# Keras ------------------------------------------------------------------------------------------


def keras_side(name: str) -> dict[str, Any]:
    """The same sizes the way keras.io's examples train them, dcgan_overriding_train_step,
    simple_mnist_convnet, vae and lstm_character_level_text_generation: `compile` and `fit` on arrays."""
    import keras
    import tensorflow as tf

    x, y = batch(name)
    fitted, targets = None, y
    if name == "cnn":
        model = ours(name)
        fitted = keras.Model(model.trunk.input, model.head(model.trunk.output)[1])
    elif name in ("lstm", "gru"):
        layer = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}[name]
        fitted = keras.Sequential([keras.Input((LENGTH,), dtype="int32")])
        fitted.add(keras.layers.Embedding(len(ALPHABET), EMBEDDING))
        for _ in range(LAYERS):
            fitted.add(layer(UNITS, return_sequences=True))
            fitted.add(keras.layers.Dropout(0.2))
        fitted.add(keras.layers.Dense(len(ALPHABET)))
    if fitted is not None:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        fitted.compile(optimizer="adam", loss=loss)
    elif name == "vae":
        fitted = ours(name)
        fitted.compile(keras.optimizers.Adam())
    else:
        fitted = _keras_gan(keras, tf)
    rows, _, steps = MODELS[name]
    repeats = max(steps, 8)
    x, targets = (np.concatenate([a] * repeats) for a in (x, targets))

    def run_steps(count: int) -> None:
        fitted.fit(x[: count * rows], targets[: count * rows], batch_size=rows, verbose=0)

    return {
        "version": metadata.version("keras"),
        "losses": [0.0],
        "speed": {"float32, fit": speed(name)(run_steps)},
    }


def _keras_gan(keras: Any, tf: Any) -> Any:
    """Our two networks with the step of keras.io's GAN: noise twice, real and fake in one batch."""
    networks = ours("gan")

    class Gan(keras.Model):
        def __init__(self):
            super().__init__()
            self.generator, self.discriminator = networks.generator, networks.discriminator
            self.built = True

        def compile(self):
            super().compile()
            self.g_optimizer, self.d_optimizer = (keras.optimizers.Adam(4e-4, beta_1=0.5) for _ in range(2))
            self.g_optimizer.build(self.generator.trainable_variables)
            self.d_optimizer.build(self.discriminator.trainable_variables)
            self.loss_of = keras.losses.BinaryCrossentropy(from_logits=True)

        def train_step(self, data):
            real, label = data
            condition = tf.one_hot(label, CLASSES)
            rows = tf.shape(real)[0]
            fake = self.generator([tf.random.normal([rows, LATENT]), condition], training=True)
            both = tf.concat([fake, 2.0 * real - 1.0], axis=0)
            targets = tf.concat([tf.zeros([rows]), tf.ones([rows])], axis=0)
            with tf.GradientTape() as tape:
                logit = self.discriminator([both, tf.concat([condition] * 2, axis=0)], training=True)
                d_loss = self.loss_of(targets, logit)
            weights = self.discriminator.trainable_weights
            self.d_optimizer.apply(tape.gradient(d_loss, weights), weights)
            with tf.GradientTape() as tape:
                fake = self.generator([tf.random.normal([rows, LATENT]), condition], training=True)
                g_loss = self.loss_of(tf.ones([rows]), self.discriminator([fake, condition], training=True))
            weights = self.generator.trainable_weights
            self.g_optimizer.apply(tape.gradient(g_loss, weights), weights)
            return {"d_loss": d_loss, "g_loss": g_loss}

    model = Gan()
    model.compile()
    return model


# The loop ---------------------------------------------------------------------------------------


def loop_side(_: str) -> dict[str, Any]:
    """Milliseconds of CPU time for a step: in the trainer, and bare."""
    import tensorflow as tf

    import zoo
    from train import data, loop, optimizers, presets, strategy

    config = presets.load("cnn_digits")
    config.data.batch_size, config.steps, config.checkpoint_every = LOOP_BATCH, LOOP_STEPS, 10 * LOOP_STEPS
    config.eval_every = config.preview_every = 10 * LOOP_STEPS
    digits = data.load("digits")
    config = loop.with_data(config, digits)
    model = zoo.build(config.family, config.model)
    model.compile(optimizers.make(config.optimizer, config.steps))
    iterator = iter(digits.train_batches(config.data, seed=0))
    step = tf.function(model.train_step)
    seconds: dict[str, list[float]] = {"trainer": [], "bare": []}
    left = time.process_time()

    def turn() -> int:
        """Called by the trainer before each call of its compiled loop."""
        nonlocal left
        seconds["trainer"].append(time.process_time() - left)
        start = time.process_time()
        for _ in range(config.steps_per_execution):
            step(next(iterator))
        left = time.process_time()
        seconds["bare"].append(left - start)
        return 0

    with tempfile.TemporaryDirectory() as folder:
        loop.train(config, pathlib.Path(folder, "run"), digits, strategy.make("one_device"), turn)
    settled = LOOP_STEPS // config.steps_per_execution // 5  # both are traced by then, lines are written
    return {
        "version": metadata.version("tensorflow"),
        "losses": [0.0],
        "speed": {
            side: 1e3 * float(np.mean(of[settled:])) / config.steps_per_execution
            for side, of in seconds.items()
        },
    }


# Comparison -------------------------------------------------------------------------------------


def torch_side(name: str) -> dict[str, Any]:
    import train_bench_torch

    return train_bench_torch.measured(name, speed(name))


SIDES = {"tensorflow": tensorflow_side, "torch": torch_side, "keras": keras_side, "loop": loop_side}


def run_side(side: str, name: str) -> dict[str, Any]:
    """Runs one side in a process of its own; the last line it prints is its result."""
    command = [sys.executable, __file__, f"--side={side}", f"--models={name}"]
    done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {name} by {side} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if not np.isfinite(result["losses"]).all():
        sys.exit(f"error: the losses of {name} by {side} are not finite: {result['losses']}")
    return result


def compare(models: list[str], rounds: int) -> None:
    from train import card

    speeds: dict[str, list[float]] = {}
    parameters: dict[str, int] = {}
    versions = {"python": platform.python_version()}
    for number in range(rounds):
        for name in models:
            sides = {side: run_side(side, name) for side in ("tensorflow", "torch", "keras")}
            counts = {side: sides[side]["parameters"] for side in ("tensorflow", "torch")}
            # PyTorch's recurrent layers have every bias twice.
            if name in CONVOLUTIONAL and len(set(counts.values())) > 1:
                sys.exit(f"error: {name} learns different numbers of numbers: {counts}")
            parameters[name] = counts["tensorflow"]
            for side, result in sides.items():
                versions[side] = result["version"]
                for form, value in result["speed"].items():
                    speeds.setdefault(f"{name}: {side}: {form}", []).append(value)
        for form, value in run_side("loop", models[0])["speed"].items():
            speeds.setdefault(f"loop: {form}", []).append(value)
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)

    best = {form: max(values) for form, values in speeds.items()}
    step = {form: min(speeds[f"loop: {form}"]) for form in ("trainer", "bare")}  # milliseconds

    def fastest(name: str, side: str, precision: str) -> float:
        return max((v for k, v in best.items() if k.startswith(f"{name}: {side}: {precision}")), default=0.0)

    ratios: dict[str, float] = {}
    for name in models:
        zoo = fastest(name, "tensorflow", "float32")
        ratios[f"{name}, float32, over PyTorch"] = zoo / fastest(name, "torch", "float32")
        if name in CONVOLUTIONAL:
            other = fastest(name, "torch", "bfloat16")
            ratios[f"{name}, bfloat16, over PyTorch"] = fastest(name, "tensorflow", "bfloat16") / other
        ratios[f"{name}, float32, over fit"] = zoo / fastest(name, "keras", "float32")
    ratios["trainer over bare step"] = step["trainer"] / step["bare"]

    print(f"{'rows per CPU second, one thread (loop: ms)':<56}{'highest':>10}{'lowest':>10}")
    for form, values in speeds.items():
        print(f"{form:<56}{max(values):>10.1f}{min(values):>10.1f}")
    for what, ratio in ratios.items():
        print(f"{what:<56}{ratio:>10.2f}")

    def told(end: str) -> str:
        shown = [f"{name} {ratios[f'{name}, {end}']:.2f}" for name in models if f"{name}, {end}" in ratios]
        return ", ".join(shown)

    result = {
        "what": "training steps; rows (images, characters) per CPU second, one thread",
        "summary": "Training against the same networks in PyTorch:"
        f" {told('float32, over PyTorch')} x its speed in float32, {told('bfloat16, over PyTorch')} x in"
        f" bfloat16; against keras.io's `fit`: {told('float32, over fit')} x; the loop adds"
        f" {ratios['trainer over bare step'] - 1:.1%} to a step of {step['bare']:.0f} ms",
        "ratio": {what: round(ratio, 3) for what, ratio in ratios.items()},
        "rounds": {form: [round(v, 1) for v in values] for form, values in speeds.items()},
        "parameters": parameters,
        "versions": versions,
        "hardware": card.hardware(),
        "command": "make bench-train",
    }
    if models != list(MODELS):  # a part is no result to keep
        return
    write_json(RESULTS, result)
    print(f"written: {RESULTS}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(MODELS), help="which rows; a part is not written down")
    parser.add_argument("--rounds", type=int, default=2)
    # What the comparison starts its child processes with.
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(SIDES[arguments.side](arguments.models)))
    else:
        compare(arguments.models.split(","), arguments.rounds)


if __name__ == "__main__":
    main()
