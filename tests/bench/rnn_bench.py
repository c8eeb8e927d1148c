"""The language model against PyTorch and against a Python loop over `model.predict`.

    make bench-rnn              (or: python tests/bench/rnn_bench.py)

Writing: 1,000 characters by an LSTM of one and of two layers of 256 units, batch 1 and 16, temperature 1 (two
layers' weights are 3 MB, more than a core's second cache: then both sides wait for the memory). Ours is the
`generate` signature of a SavedModel, loaded from disk; PyTorch's a loop over `LSTMCell` in inference mode
with the same weights, sampling likewise; Keras' the loop of keras.io's example, `model.predict` on the last
40 characters for each new one. Training: the step of `zoo.rnn`, 64 windows of 128 characters, against
`torch.nn.LSTM` and `torch.nn.GRU` of the same sizes with fused AdamW and clipping.

One thread each, in separate processes that take turns; figures are characters per second of CPU time
(`time.process_time`, which counts every thread), so that a busy machine does not tilt them; of the rounds the
least disturbed one counts. Writes `tests/bench/results/rnn.json`.
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

UNITS, LAYERS, EMBEDDING = 256, 2, 64
ALPHABET = "\n" + "".join(map(chr, range(33, 97)))  # 65 symbols, as many as tinyshakespeare has
WRITTEN = 1000
READ_AGAIN = 40  # characters that keras.io's loop predicts from
BATCHES = (1, 16)
WRITERS = (1, 2)  # layers
ROWS, LENGTH, STEPS = 64, 128, 3
CELLS = ("lstm", "gru")
ROUNDS = 3
RESULTS = pathlib.Path(__file__).parent / "results" / "rnn.json"
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "",
}

Speeds = dict[str, float]


def per_cpu_second(characters: int, run: Callable[..., Any], *arguments: Any, **request: Any) -> float:
    """The best of three, after one to warm up."""
    run(*arguments, **request)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        run(*arguments, **request)
        seconds.append(time.process_time() - start)
    return characters / min(seconds)


def windows() -> np.ndarray:
    """int32 [64, 129]; what they say does not matter."""
    return np.random.default_rng(0).integers(0, len(ALPHABET), (ROWS, LENGTH + 1)).astype(np.int32)


def _write(layers: int, batch: int) -> str:
    return f"write, {layers} layer{'s' if layers > 1 else ''}, batch {batch}"


# TensorFlow -------------------------------------------------------------------------------------


def tensorflow_side(weights: pathlib.Path) -> Speeds:
    import tensorflow as tf

    from serving import export
    from train import optimizers
    from zoo import rnn

    def made(cell: str, layers: int) -> rnn.Model:
        sizes = {"units": UNITS, "layers": layers, "embedding": EMBEDDING, "dropout": 0.2}
        return rnn.Model(rnn.Config(alphabet=ALPHABET, cell=rnn.Cell(cell), **sizes))

    speeds = {}
    for layers in WRITERS:
        model = made("lstm", layers)
        np.savez(weights / f"{layers}.npz", **{v.name: v.numpy() for v in model.ema_network.weights})
        with tempfile.TemporaryDirectory() as folder:
            path = export.export(model, pathlib.Path(folder), "lstm", {})
            generate = tf.saved_model.load(str(path)).signatures["generate"]
        for batch in BATCHES:
            request = {
                "prompt": tf.fill([batch], ""),
                "seed": tf.range(batch, dtype=tf.int64),
                "length": tf.constant([WRITTEN]),
                "temperature": tf.constant([1.0]),
                "top_k": tf.constant([0]),
                "top_p": tf.constant([1.0]),
            }
            speeds[_write(layers, batch)] = per_cpu_second(batch * WRITTEN, generate, **request)
    for cell in CELLS:
        model = made(cell, LAYERS)
        model.compile(optimizers.AdamW(1e-3))
        window = tf.constant(windows())

        @tf.function
        def steps(model=model, window=window):
            for _ in tf.range(STEPS):
                model.train_step((window[:, :-1], window[:, 1:]))

        speeds[f"train {cell}"] = per_cpu_second(STEPS * ROWS * LENGTH, steps)
    return speeds


# Keras ------------------------------------------------------------------------------------------


def keras_side(_: pathlib.Path) -> Speeds:
    """https://keras.io/examples/generative/lstm_character_level_text_generation/, with our sizes."""
    import keras

    model = keras.Sequential([keras.Input((READ_AGAIN,), dtype="int32")])
    model.add(keras.layers.Embedding(len(ALPHABET), EMBEDDING))
    for i in range(LAYERS):
        model.add(keras.layers.LSTM(UNITS, return_sequences=i < LAYERS - 1))
    model.add(keras.layers.Dense(len(ALPHABET), activation="softmax"))
    random, characters = np.random.default_rng(0), 30

    def write() -> None:
        text = random.integers(0, len(ALPHABET), READ_AGAIN).tolist()
        for _ in range(characters):
            p = model.predict(np.array([text[-READ_AGAIN:]]), verbose=0)[0].astype(np.float64)
            text.append(int(np.argmax(random.multinomial(1, p / p.sum()))))

    return {_write(LAYERS, 1): per_cpu_second(characters, write)}


# PyTorch ----------------------------------------------------------------------------------------


def torch_side(weights: pathlib.Path) -> Speeds:
    import torch
    from torch import nn
    from torch.nn import functional

    torch.set_num_threads(1)
    torch.manual_seed(0)
    speeds = {}

    for layers in WRITERS:
        with np.load(weights / f"{layers}.npz") as stored:
            ours = {name: torch.from_numpy(stored[name]) for name in stored.files}
        cells = []
        for i in range(layers):
            cell = nn.LSTMCell(ours[f"kernel{i}"].shape[0], UNITS)
            with torch.no_grad():
                cell.weight_ih.copy_(ours[f"kernel{i}"].T)  # the order of the gates is Keras' too: i, f, g, o
                cell.weight_hh.copy_(ours[f"recurrent{i}"].T)
                cell.bias_ih.copy_(ours[f"bias{i}"])
                cell.bias_hh.zero_()
            cells.append(cell)
        kernel, bias = ours["output_kernel"].T.contiguous(), ours["output_bias"]

        def write(batch: int, ours=ours, cells=cells, kernel=kernel, bias=bias) -> None:
            with torch.inference_mode():
                symbol = torch.zeros(batch, dtype=torch.long)
                states = [(torch.zeros(batch, UNITS), torch.zeros(batch, UNITS)) for _ in cells]
                written = []
                for _ in range(WRITTEN):
                    x = ours["embedding"][symbol]
                    for i, cell in enumerate(cells):
                        states[i] = cell(x, states[i])
                        x = states[i][0]
                    p = functional.softmax(functional.linear(x, kernel, bias), dim=1)
                    symbol = torch.multinomial(p, 1)[:, 0]
                    written.append(symbol)
                torch.stack(written, 1)

        for batch in BATCHES:
            speeds[_write(layers, batch)] = per_cpu_second(batch * WRITTEN, write, batch)

    window = torch.from_numpy(windows()).long()
    for name in CELLS:
        embedding = nn.Embedding(len(ALPHABET), EMBEDDING)
        kind = {"lstm": nn.LSTM, "gru": nn.GRU}[name]
        recurrent = kind(EMBEDDING, UNITS, LAYERS, batch_first=True, dropout=0.2)
        output = nn.Linear(UNITS, len(ALPHABET))
        network = nn.ModuleList([embedding, recurrent, output])
        average = [p.detach().clone() for p in network.parameters()]
        adam = torch.optim.AdamW(network.parameters(), lr=1e-3, eps=1e-7, fused=True)

        def steps(network=network, average=average, adam=adam) -> None:
            embedding, recurrent, output = network
            for _ in range(STEPS):
                logits = output(functional.dropout(recurrent(embedding(window[:, :-1]))[0], 0.2))
                loss = functional.cross_entropy(logits.flatten(0, 1), window[:, 1:].flatten())
                adam.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                adam.step()
                with torch.no_grad():
                    torch._foreach_lerp_(average, list(network.parameters()), 0.001)

        speeds[f"train {name}"] = per_cpu_second(STEPS * ROWS * LENGTH, steps)
    return speeds


# Comparison -------------------------------------------------------------------------------------

SIDES = {"tensorflow": tensorflow_side, "torch": torch_side, "keras": keras_side}


def run_side(side: str, weights: pathlib.Path) -> Speeds:
    """Runs one side in a process of its own; the last line it prints is its result."""
    command = [sys.executable, __file__, f"--side={side}", f"--weights={weights}"]
    done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: the {side} side failed:\n{done.stderr[-2000:]}")
    speeds: Speeds = json.loads(done.stdout.splitlines()[-1])
    return speeds


def compare() -> None:
    from train import card

    rounds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            for side in SIDES:  # the first writes the weights that the second reads
                for what, speed in run_side(side, pathlib.Path(folder)).items():
                    rounds.setdefault(f"{side}: {what}", []).append(speed)
            print(f"round {number + 1} of {ROUNDS} done", file=sys.stderr)
    best = {name: max(values) for name, values in rounds.items()}
    asked = [_write(layers, batch) for layers in WRITERS for batch in BATCHES]
    asked += [f"train {cell}" for cell in CELLS]
    ratios = {what: best[f"tensorflow: {what}"] / best[f"torch: {what}"] for what in asked}
    writing = _write(LAYERS, 1)
    ratios["write, against Keras"] = best[f"tensorflow: {writing}"] / best[f"keras: {writing}"]

    print(f"{'characters per CPU second, one thread':<40}{'highest':>10}{'lowest':>10}")
    for name, values in rounds.items():
        print(f"{name:<40}{max(values):>10.0f}{min(values):>10.0f}")
    for what, ratio in ratios.items():
        print(f"{what:<40}{ratio:>10.2f}")

    result = {
        "what": f"layers of {UNITS} units, 65 symbols; characters per CPU second, one thread; training: two",
        "summary": "A SavedModel writes text"
        f" {ratios[_write(1, 1)]:.1f} x (one LSTM layer) and {ratios[_write(2, 1)]:.1f} x (two) as fast as"
        f" a PyTorch loop with the same weights, {ratios[_write(1, 16)]:.1f} x and"
        f" {ratios[_write(2, 16)]:.1f} x in batches of 16, and {ratios['write, against Keras']:.0f} x as fast"
        " as a loop over `model.predict`; training:"
        f" {ratios['train lstm']:.2f} x (LSTM), {ratios['train gru']:.2f} x (GRU) PyTorch's characters",
        "ratio": {what: round(ratio, 3) for what, ratio in ratios.items()},
        "best": {name: round(value, 1) for name, value in best.items()},
        "rounds": {name: [round(v, 1) for v in values] for name, values in rounds.items()},
        "versions": {
            "python": platform.python_version(),
            **{side: metadata.version(side) for side in SIDES},
        },
        "hardware": card.hardware(),
        "command": "make bench-rnn",
    }
    write_json(RESULTS, result)
    print(f"written: {RESULTS}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    # What the comparison starts its child processes with.
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--weights", type=pathlib.Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(SIDES[arguments.side](arguments.weights)))
    else:
        compare()


if __name__ == "__main__":
    main()
