"""Gatys' style transfer: a step against PyTorch and the keras.io example, and how fast the loss falls.

    make bench-style            (or: python tests/bench/style_bench.py [--short] [steps descent example])

Tübingen in the manner of The Starry Night at 256x256, with the weights in ../shared/data/vgg19. Each side
runs in a process of its own with one thread, and its time is CPU time (`time.process_time`), so that a busy
machine does not tilt it. PyTorch is the same loss, weights and Adam, contiguous and channels_last; its best
counts. The keras.io example ("Neural style transfer") is written anew from its description: 3 pictures in a
batch through all of VGG19, plain SGD with its decay. Writes `tests/bench/results/style.json`.

`--short` is a trial of the benchmark, at 128x128 and with few repetitions: it writes nothing.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np
from PIL import Image

from zoo.files import write_json

DATA = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data"
WEIGHTS = DATA / "vgg19" / "vgg19_imagenet_notop_q8.h5"
PICTURES = ("content_images/tubingen.jpg", "style_images/van_gogh_starry_night_1889.jpg")
RESULTS = pathlib.Path(__file__).parent / "results" / "style.json"
PARTS = ("steps", "descent", "example")
STYLE_LAYERS = tuple(f"block{block}_conv1" for block in range(1, 6))
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is measured."""

    side: int = 256  # pixels
    rounds: int = 2
    warm_up: int = 3
    steps: int = 10
    evaluations: int = 100
    example_steps: int = 400


SHORT = Plan(side=128, rounds=1, warm_up=2, steps=5, evaluations=25, example_steps=60)


def pictures(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Photo and painting, stretched, float32 `[side, side, 3]` in `[0, 1]`."""
    content, style = (
        np.asarray(
            Image.open(DATA / name).convert("RGB").resize((side, side), Image.Resampling.BICUBIC), np.float32
        )
        / 255
        for name in PICTURES
    )
    return content, style


def seconds_per_step(step: Callable[[], None], plan: Plan) -> float:
    for _ in range(plan.warm_up):
        step()
    start = time.process_time()
    for _ in range(plan.steps):
        step()
    return (time.process_time() - start) / plan.steps


# This project -----------------------------------------------------------------------------------


def zoo_side(plan: Plan, dtype: str) -> dict[str, Any]:
    """A step of Adam, as PyTorch's."""
    import tensorflow as tf

    from zoo import gatys, minimizers

    config = gatys.Config(dtype=dtype)
    content, style = pictures(plan.side)
    vgg = gatys.network(config, str(WEIGHTS))
    objective = gatys.Objective(config, vgg, content, [style], np.ones(1), None)
    advance = tf.function(minimizers.adam_advance)
    states = [minimizers.adam_start(tf.constant(content.reshape(-1)), tf.constant(1000), 0.05)]

    def step() -> None:
        state = states.pop()
        states.append(advance(state, *objective(state.trial)))

    loss = float(objective(states[0].trial)[0])
    return {"seconds": {"zoo.gatys": seconds_per_step(step, plan)}, "loss": loss}


def descent(plan: Plan) -> dict[str, Any]:
    """Losses after so many evaluations: L-BFGS, Adam, and L-BFGS in bfloat16 judged in float32."""
    import tensorflow as tf

    from zoo import gatys, minimizers

    content, style = pictures(plan.side)
    exact: gatys.Objective | None = None
    found: dict[str, Any] = {}
    for name, changes in (
        ("lbfgs", {}),
        ("adam", {"minimizer": minimizers.Minimizer.ADAM}),
        ("lbfgs, bfloat16", {"dtype": "bfloat16"}),
    ):
        config = gatys.Config(steps=plan.evaluations, **changes)
        vgg = gatys.network(config, str(WEIGHTS))
        exact = exact or gatys.Objective(config, vgg, content, [style], np.ones(1), None)
        start = time.process_time()
        steps = [(p.loss, time.process_time() - start) for p in _painted(config, vgg, content, style, found)]
        judged = float(exact(tf.constant(found.pop("image").reshape(-1)))[0])
        found[name] = {
            "losses": {n: steps[n - 1][0] for n in (1, 10, 25, 50, 100) if n <= plan.evaluations},
            "loss_in_float32": judged,
            "seconds": steps[-1][1],
        }
    return found


def _painted(config, vgg, content, style, found):
    from zoo import gatys

    for progress in gatys.paint(content, [style], config, vgg=vgg):
        found["image"] = progress.image
        yield progress


# The keras.io example ---------------------------------------------------------------------------


def example(plan: Plan) -> dict[str, Any]:
    """Its time and loss after so many steps, and this project's time to reach that loss of its own."""
    import keras
    import tensorflow as tf

    from zoo import gatys

    content, style = pictures(plan.side)
    network = keras.applications.VGG19(weights=str(WEIGHTS), include_top=False)
    extractor = keras.Model(network.input, {layer.name: layer.output for layer in network.layers})
    mean = tf.constant([103.939, 116.779, 123.68])
    base, reference = (tf.constant(image[None, ..., ::-1] * 255) - mean for image in (content, style))
    combination = tf.Variable(base)
    size = plan.side * plan.side

    def gram(features):
        flat = tf.reshape(tf.transpose(features, (2, 0, 1)), (features.shape[-1], -1))
        return tf.matmul(flat, flat, transpose_b=True)

    def loss_of(image):
        features = extractor(tf.concat([base, reference, image], 0))
        of_content = features["block5_conv2"]
        loss = 2.5e-8 * tf.reduce_sum(tf.square(of_content[2] - of_content[0]))
        for layer in STYLE_LAYERS:
            difference = gram(features[layer][1]) - gram(features[layer][2])
            loss += 1e-6 / 5 * tf.reduce_sum(tf.square(difference)) / (36.0 * size**2)
        down = tf.square(image[:, :-1, :-1] - image[:, 1:, :-1])
        across = tf.square(image[:, :-1, :-1] - image[:, :-1, 1:])
        return loss + 1e-6 * tf.reduce_sum(tf.pow(down + across, 1.25))

    optimizer = keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(100.0, 100, 0.96))
    optimizer.build([combination])

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = loss_of(combination)
        optimizer.apply_gradients([(tape.gradient(loss, combination), combination)])
        return loss

    started_at = float(step())
    start = time.process_time()
    for _ in range(plan.example_steps - 1):
        step()
    theirs = time.process_time() - start
    reached = float(loss_of(combination))

    # The same loss in this project's words: a mean over places instead of a sum, each layer's own size.
    config = gatys.Config(
        content_layer="block5_conv2",
        content_weight=5e-8,
        style_weight=1e-6,
        style_layers={n: (64 * 2 ** min(b, 3) / (3 * 4**b)) ** 2 / 5 for b, n in enumerate(STYLE_LAYERS)},
        tv_weight=1e-6,
        steps=1000,
    )
    vgg = gatys.network(config, str(WEIGHTS))
    start = time.process_time()
    for progress in gatys.paint(content, [style], config, vgg=vgg):
        if progress.evaluation == 1 and not np.isclose(progress.loss, started_at, rtol=1e-3):
            sys.exit(f"error: the losses differ: {progress.loss} here, {started_at} in the example")
        if progress.loss <= reached:
            break
    else:
        sys.exit(f"error: {reached} was not reached: {progress.loss}")
    return {
        "seconds": {"keras.io example": theirs / (plan.example_steps - 1)},
        "loss": reached,
        "loss_at_start": started_at,
        "seconds_to_loss": {"keras.io example": theirs, "zoo.gatys": time.process_time() - start},
        "evaluations_to_loss": {"keras.io example": plan.example_steps, "zoo.gatys": progress.evaluation},
    }


# PyTorch ----------------------------------------------------------------------------------------


def torch_side(plan: Plan, kernels: str, bfloat16: bool) -> dict[str, Any]:
    import torch
    from torch.nn import functional

    torch.set_num_threads(1)
    kind = torch.bfloat16 if bfloat16 else torch.float32
    arrays = dict(np.load(kernels))
    images = [torch.from_numpy(image.transpose(2, 0, 1)[None].copy()) for image in pictures(plan.side)]
    mean = torch.tensor([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)

    def run(channels_last: bool) -> tuple[float, float]:
        form = torch.channels_last if channels_last else torch.contiguous_format
        layers = [
            (name, *(torch.from_numpy(arrays[f"{name}_{part}"]).to(kind) for part in ("kernel", "bias")))
            for name in dict.fromkeys(key.rpartition("_")[0] for key in arrays)
        ]
        layers = [(n, k.permute(3, 2, 0, 1).contiguous(memory_format=form), b) for n, k, b in layers]

        def features(image):
            x = (image.flip(1) * 255 - mean).to(kind).contiguous(memory_format=form)
            found = {}
            for name, kernel, bias in layers:
                if name.endswith("conv1") and name != "block1_conv1":
                    x = functional.max_pool2d(x, 2)
                x = found[name] = functional.relu(functional.conv2d(x, kernel, bias, padding=1))
            return found

        def gram(found):
            flat = found.float().flatten(2)[0]
            return flat @ flat.T / flat.shape[1]

        with torch.no_grad():
            content = features(images[0])["block4_conv2"].float()
            style = {name: gram(value) for name, value in features(images[1]).items() if name in STYLE_LAYERS}
        image = images[0].clone().requires_grad_()
        optimizer = torch.optim.Adam([image], 0.05, fused=True)
        losses = []

        def step() -> None:
            optimizer.zero_grad()
            found = features(image)
            loss = 1e-3 * 0.5 * (found["block4_conv2"].float() - content).square().sum()
            for name, wanted in style.items():
                loss = loss + 0.2 * (gram(found[name]) - wanted).square().sum() / (4 * wanted.shape[0] ** 2)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))

        return seconds_per_step(step, plan), losses[0]

    results = {f: run(f == "channels_last") for f in ("channels_last", "contiguous")}
    return {
        "version": torch.__version__,
        "seconds": {form: seconds for form, (seconds, _) in results.items()},
        "loss": results["contiguous"][1],
    }


def write_kernels(path: pathlib.Path) -> None:
    from zoo import gatys

    vgg = gatys.network(gatys.Config(), str(WEIGHTS))
    layers = [layer for layer in vgg.layers if layer.name.startswith("block") and layer.weights]
    np.savez(
        path,
        **{
            f"{layer.name}_{part}": array
            for layer in layers
            for part, array in zip(("kernel", "bias"), layer.get_weights(), strict=True)
        },
    )


# Comparison -------------------------------------------------------------------------------------


def run_side(side: str, short: bool, kernels: pathlib.Path) -> dict[str, Any]:
    """Runs one side in a process of its own; the last line it prints is its result."""
    command = [sys.executable, __file__, f"--side={side}", f"--kernels={kernels}", *["--short"] * short]
    done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {side} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def steps(plan: Plan, short: bool) -> dict[str, Any]:
    """CPU seconds of a step of each side, the sides in turns."""
    seconds: dict[str, list[float]] = {}
    losses: dict[str, float] = {}
    version = ""
    with tempfile.TemporaryDirectory() as folder:
        kernels = pathlib.Path(folder, "kernels.npz")
        write_kernels(kernels)
        for number in range(plan.rounds):
            for side in ("zoo float32", "zoo bfloat16", "torch float32", "torch bfloat16"):
                result = run_side(side, short, kernels)
                for form, value in result["seconds"].items():
                    seconds.setdefault(f"{side}, {form}", []).append(value)
                losses[side] = result["loss"]
                version = result.get("version", version)
            print(f"round {number + 1} of {plan.rounds} done", file=sys.stderr)
    for side, loss in losses.items():
        if not np.isclose(loss, losses["zoo float32"], rtol=0.02):
            sys.exit(f"error: the sides do not compute the same loss: {losses} ({side})")
    return {"seconds": seconds, "torch": version}


def figures(parts: dict[str, Any]) -> dict[str, float]:
    """The ratios of the parts that were run."""
    found: dict[str, float] = {}
    step = {form: statistics.median(v) for form, v in parts.get("steps", {}).get("seconds", {}).items()}
    for kind in ("float32", "bfloat16") if step else ():
        best = min(value for form, value in step.items() if form.startswith(f"torch {kind}"))
        found[f"a step in {kind} to PyTorch's"] = step[f"zoo {kind}, zoo.gatys"] / best
    if "descent" in parts:
        lbfgs, adam, shorter = (parts["descent"][name] for name in ("lbfgs", "adam", "lbfgs, bfloat16"))
        found["loss left by L-BFGS"] = lbfgs["loss_in_float32"] / lbfgs["losses"]["1"]
        found["Adam's loss to L-BFGS'"] = adam["loss_in_float32"] / lbfgs["loss_in_float32"]
        found["bfloat16's loss to float32's"] = shorter["loss_in_float32"] / lbfgs["loss_in_float32"]
    if "example" in parts:
        to_loss = parts["example"]["seconds_to_loss"]
        found["time to the keras.io example's loss to its own"] = (
            to_loss["zoo.gatys"] / to_loss["keras.io example"]
        )
        theirs = parts["example"]["seconds"]["keras.io example"]
        if step:
            found["a step to the keras.io example's"] = step["zoo float32, zoo.gatys"] / theirs
    return found


# What each figure says, in the README's words; of a plan.
SENTENCES = {
    "a step in float32 to PyTorch's": "a step takes {:.2f} x PyTorch's time in float32",
    "a step in bfloat16 to PyTorch's": "{:.2f} x in bfloat16",
    "loss left by L-BFGS": "{plan.evaluations} evaluations of L-BFGS leave {:.1%} of the loss",
    "Adam's loss to L-BFGS'": "Adam's are {:.2f} x what L-BFGS leaves",
    "bfloat16's loss to float32's": "a picture made in bfloat16 has {:.3f} x the loss",
    "time to the keras.io example's loss to its own": (
        "keras.io's example's loss after {plan.example_steps} steps is reached in {:.1%} of its time"
    ),
    "a step to the keras.io example's": "a step takes {:.2f} x its",
}


def summary(plan: Plan, ratios: dict[str, float]) -> str:
    said = [SENTENCES[name].format(value, plan=plan) for name, value in ratios.items()]
    return f"Gatys at {plan.side}x{plan.side}: {'; '.join(said)}"


def compare(wanted: list[str], short: bool) -> None:
    from train import card

    plan = SHORT if short else Plan()
    known = json.loads(RESULTS.read_text())["parts"] if RESULTS.exists() and not short else {}
    for part in wanted:
        found = steps(plan, short) if part == "steps" else run_side(part, short, pathlib.Path())
        # A part that is run alone replaces its own figures; each says when it was run.
        known[part] = found | {"when": time.strftime("%Y-%m-%dT%H:%MZ", time.gmtime())}
        ratios = {name: round(value, 3) for name, value in figures(known).items()}
        for name, value in ratios.items():
            print(f"{name:<50}{value:>8.3f}", flush=True)
        if short:
            continue
        result = {
            "what": f"Gatys' style transfer at {plan.side}x{plan.side}, CPU seconds, one thread",
            "summary": summary(plan, ratios),
            "ratios": ratios,
            "parts": known,
            "versions": {
                "python": platform.python_version(),
                **{name: metadata.version(name) for name in ("keras", "tensorflow")},
            },
            "hardware": card.hardware(),
            "command": "make bench-style",
        }
        write_json(RESULTS, result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a trial: 128x128, few steps, writes nothing")
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    # What the comparison starts its child processes with.
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--kernels", help=argparse.SUPPRESS)
    given = parser.parse_args()
    plan = SHORT if given.short else Plan()
    sides: dict[str, Callable[[], dict[str, Any]]] = {
        "zoo float32": lambda: zoo_side(plan, "float32"),
        "zoo bfloat16": lambda: zoo_side(plan, "bfloat16"),
        "torch float32": lambda: torch_side(plan, given.kernels, False),
        "torch bfloat16": lambda: torch_side(plan, given.kernels, True),
        "descent": lambda: descent(plan),
        "example": lambda: example(plan),
    }
    if not WEIGHTS.is_file():
        sys.exit(f"error: this needs the real data in {DATA}")
    if given.side:
        print(json.dumps(sides[given.side]()))
    else:
        compare(given.parts, given.short)


if __name__ == "__main__":
    main()
