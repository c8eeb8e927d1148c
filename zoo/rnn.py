"""Recurrent language models of text, symbol by symbol.

Graves 2013, "Generating Sequences With Recurrent Neural Networks" (arXiv:1308.0850), in Zaremba et al.'s
form (2014, arXiv:1409.2329): recurrent layers with dropout between them alone. The cells are the LSTM with
forget gate (Gers et al. 2000), the GRU (Cho et al. 2014, arXiv:1406.1078) with the reset gate behind the
matrix product, as cuDNN has it, and the plain tanh network (Elman 1990). A dropout mask stays the same over
the window (Gal & Ghahramani 2016, arXiv:1512.05287), input and output may share one embedding (Press & Wolf
2017, arXiv:1608.05859), and what is served is a moving average of the weights.
"""

import dataclasses
import enum
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from zoo import base, rng

START = "\n"  # read before the first symbol of every text, so that this one has a probability too
MAX_LENGTH = 10_000  # symbols that one request may ask for
_CHUNK = 512  # symbols of a text that is scored are read at a time: memory does not grow with its length


class Cell(enum.StrEnum):
    LSTM = "lstm"
    GRU = "gru"
    PLAIN = "plain"


@dataclasses.dataclass
class Config:
    """What a language model is made of. `alphabet` is taken from the data in training."""

    alphabet: str = "\n" + "".join(map(chr, range(32, 127)))  # by code point; here ASCII
    cell: Cell = Cell.GRU
    units: int = 256  # of a layer's state
    layers: int = 2
    embedding: int = 64  # numbers that stand for a symbol
    tied: bool = False  # the output layer looks symbols up in the same table; for large alphabets
    dropout: float = 0.0  # of each layer's outputs; one mask for a window
    input_dropout: float = 0.0  # of the embedding, likewise
    clip_norm: float = 1.0  # of all gradients together
    ema_decay: float = 0.999  # of the weights that are served

    def validate(self) -> None:
        """Raises `ValueError` that names the field, its value and what is expected."""
        if START not in self.alphabet:
            raise ValueError(f"alphabet={self.alphabet!r}: it must hold the line feed, where texts start")
        if "".join(sorted(set(self.alphabet))) != self.alphabet:
            raise ValueError(f"alphabet={self.alphabet!r}: every symbol once, by code point, is expected")
        for name in ("units", "layers", "embedding"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1 is expected")
        for name in ("dropout", "input_dropout", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: a number in [0, 1) is expected")
        if not self.clip_norm > 0:
            raise ValueError(f"clip_norm={self.clip_norm}: a positive number is expected")


# Networks ---------------------------------------------------------------------------------------
#
# A cell is a pair of functions of one time step. Its inputs come in "gate space": x W + b of all steps is
# one matrix product before the loop. What the backward step needs is kept, and the gradient of the
# recurrent kernel is again one product, after the loop; differentiating the loop itself would add up a
# matrix of that size at each step.

State = tuple[tf.Tensor, ...]  # h first; `[B, units]` each


def lstm_step(x: tf.Tensor, recurrent: tf.Tensor, state: State) -> tuple[State, State]:
    """i, f, o = σ; g = tanh; c' = f c + i g; h' = o tanh c'  (Gers et al. 2000, without peepholes).

    Args:
        x: x W + b, `[B, 4 units]`, gates in Keras' order i, f, g, o.
        recurrent: h U, likewise.
        state: h, c.

    Returns:
        The next state, and what `lstm_gradient` needs.
    """
    i, f, g, o = tf.split(x + recurrent, 4, axis=1)
    i, f, g, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)
    c = f * state[1] + i * g
    squashed = tf.tanh(c)
    return (o * squashed, c), (i, f, g, o, squashed)


def lstm_gradient(kept: State, before: State, dstate: State) -> tuple[tf.Tensor, tf.Tensor, State]:
    """The step backward.

    Args:
        kept: what the step kept.
        before: the state before it.
        dstate: the loss's gradient by the state after it.

    Returns:
        The gradient by h U; by the last of x's gates, where x and h U do not simply add up there; by the
        state before, as far as it does not pass through U.
    """
    i, f, g, o, squashed = kept
    dh, dc = dstate
    dc += dh * o * (1.0 - squashed * squashed)
    di, df, do = dc * g * i * (1.0 - i), dc * before[1] * f * (1.0 - f), dh * squashed * o * (1.0 - o)
    dg = dc * i * (1.0 - g * g)
    return tf.concat([di, df, dg, do], axis=1), do, (tf.zeros_like(dh), dc * f)


def gru_step(x: tf.Tensor, recurrent: tf.Tensor, state: State) -> tuple[State, State]:
    """z, r = σ; n = tanh(x + r h U); h' = z h + (1 - z) n; gates in Keras' order z, r, n."""
    units = state[0].shape[1]
    gates_x, candidate_x = tf.split(x, [2 * units, units], axis=1)
    gates_h, candidate_h = tf.split(recurrent, [2 * units, units], axis=1)
    z, r = tf.split(tf.sigmoid(gates_x + gates_h), 2, axis=1)
    n = tf.tanh(candidate_x + r * candidate_h)
    return (n + z * (state[0] - n),), (z, r, n, candidate_h)


def gru_gradient(kept: State, before: State, dstate: State) -> tuple[tf.Tensor, tf.Tensor, State]:
    """As `lstm_gradient`."""
    z, r, n, candidate_h = kept
    dh = dstate[0]
    rest = 1.0 - z
    dn = dh * rest * (1.0 - n * n)
    dcandidate = dn * r
    dz = dh * (before[0] - n) * z * rest
    dr = dcandidate * candidate_h * (1.0 - r)
    return tf.concat([dz, dr, dcandidate], axis=1), dn, (dh * z,)


def plain_step(x: tf.Tensor, recurrent: tf.Tensor, state: State) -> tuple[State, State]:
    """h' = tanh(x + h U)  (Elman 1990)."""
    h = tf.tanh(x + recurrent)
    return (h,), (h,)


def plain_gradient(kept: State, before: State, dstate: State) -> tuple[tf.Tensor, tf.Tensor, State]:
    """As `lstm_gradient`."""
    dx = dstate[0] * (1.0 - kept[0] * kept[0])
    return dx, dx, (tf.zeros_like(dx),)


class _CellForm(NamedTuple):
    gates: int
    states: int
    kept: int
    step: Callable[[tf.Tensor, tf.Tensor, State], tuple[State, State]]
    gradient: Callable[[State, State, State], tuple[tf.Tensor, tf.Tensor, State]]


CELLS = {
    Cell.LSTM: _CellForm(4, 2, 5, lstm_step, lstm_gradient),
    Cell.GRU: _CellForm(3, 1, 4, gru_step, gru_gradient),
    Cell.PLAIN: _CellForm(1, 1, 1, plain_step, plain_gradient),
}


def unroll(
    cell: Cell, x: tf.Tensor, kernel: tf.Tensor, state: State, learning: bool = False
) -> tuple[tf.Tensor, State]:
    """Runs a cell along time.

    Args:
        cell: which.
        x: the inputs in gate space, `[T, B, gates * units]`.
        kernel: U, `[units, gates * units]`.
        state: before the first step.
        learning: with the gradient written out; a SavedModel must do without.

    Returns:
        h of every step `[T, B, units]`, and the state after the last.
    """
    form = CELLS[cell]
    rows, units = x.shape[1], kernel.shape[0]

    def loop(condition, body, first, state: State, arrays: list[int]):
        """A while loop of (t, state, one array of a row of each width for every step)."""
        steps = tf.shape(x)[0]
        made = [tf.TensorArray(tf.float32, steps, element_shape=[rows, width]) for width in arrays]
        shapes = [tf.TensorShape([rows, units])] * len(state)
        invariants = (tf.TensorShape([]), shapes, [tf.TensorShape(None)] * len(made))
        return tf.while_loop(condition, body, (first, list(state), made), invariants)[1:]

    def forward(x: tf.Tensor, kernel: tf.Tensor, state: State, arrays: int):
        """The last state, and of each step the first so many of its new state and what it kept."""
        steps = tf.shape(x)[0]

        # A slice `x[t]` is a view; a TensorArray filled from x would copy it.
        def body(t, state, written):
            new, kept = form.step(x[t], tf.matmul(state[0], kernel), state)
            written = [a.write(t, v) for a, v in zip(written, (*new, *kept), strict=False)]
            return t + 1, list(new), written

        return loop(lambda t, *_: t < steps, body, 0, state, [units] * arrays)

    if not learning:
        last, (output,) = forward(x, kernel, state, 1)
        return output.stack(), tuple(last)

    @tf.custom_gradient
    def run(x: tf.Tensor, kernel: tf.Tensor, *state: tf.Tensor):
        last, arrays = forward(x, kernel, state, form.states + form.kept)
        states, kept = [a.stack() for a in arrays[: form.states]], arrays[form.states :]

        def gradient(doutput: tf.Tensor, *dlast: tf.Tensor):
            transposed = tf.transpose(kernel)
            before = [tf.concat([s[None], h[:-1]], axis=0) for s, h in zip(state, states, strict=True)]

            def body(t, dstate, written):
                dstate = (dstate[0] + doutput[t], *dstate[1:])
                keep = tuple(a.read(t) for a in kept)
                dgates, dx, direct = form.gradient(keep, tuple(b[t] for b in before), dstate)
                dh = direct[0] + tf.matmul(dgates, transposed)
                written = [a.write(t, v) for a, v in zip(written, (dgates, dx), strict=True)]
                return t - 1, [dh, *direct[1:]], written

            widths = [form.gates * units, units]
            dstate, written = loop(lambda t, *_: t >= 0, body, tf.shape(x)[0] - 1, dlast, widths)
            dgates, dx = (a.stack() for a in written)
            flat = tf.reshape(dgates, [-1, form.gates * units])
            dkernel = tf.matmul(tf.reshape(before[0], [-1, units]), flat, transpose_a=True)
            return tf.concat([dgates[..., :-units], dx], axis=2), dkernel, *dstate

        return (states[0], *last), gradient

    output, *last = run(x, kernel, *state)
    return output, tuple(last)


class Network(keras.Model):
    """Embedding, recurrent layers, output layer: symbols to logits of the next ones."""

    def __init__(self, config: Config, name: str):
        super().__init__(name=name)
        self.config = config
        symbols, units = len(config.alphabet), config.units
        gates = CELLS[config.cell].gates * units
        table = (symbols, config.embedding)
        self.embedding = self.add_weight(
            name="embedding", shape=table, initializer=_uniform(config.embedding)
        )
        for i in range(config.layers):
            width = units if i else config.embedding
            weights = {
                "kernel": ((width, gates), _uniform(width)),
                "recurrent": ((units, gates), keras.initializers.Orthogonal()),
                "bias": ((gates,), _bias(config)),
            }
            # Attributes of their own: a checkpoint does not see what only a list holds.
            for kind, (shape, initializer) in weights.items():
                name = f"{kind}{i}"
                setattr(self, name, self.add_weight(name=name, shape=shape, initializer=initializer))
        name, width = ("projection", config.embedding) if config.tied else ("output_kernel", symbols)
        setattr(self, name, self.add_weight(name=name, shape=(units, width), initializer=_uniform(units)))
        self.output_bias = self.add_weight(name="output_bias", shape=(symbols,), initializer="zeros")
        self.built = True

    def layer(self, i: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """W, U and b of a recurrent layer."""
        names = (f"{kind}{i}" for kind in ("kernel", "recurrent", "bias"))
        kernel, recurrent, bias = (tf.convert_to_tensor(getattr(self, name)) for name in names)
        return kernel, recurrent, bias

    def start(self, rows: tf.Tensor) -> list[State]:
        """The state of each layer before any symbol."""
        zeros = tf.zeros([rows, self.config.units])
        return [(zeros,) * CELLS[self.config.cell].states] * self.config.layers

    def read(
        self,
        ids: tf.Tensor,
        states: list[State],
        masks: list[tf.Tensor] | None = None,
        learning: bool = False,
    ) -> tuple[tf.Tensor, list[State]]:
        """Symbols int `[B, T]` → logits of the next ones `[T, B, K]`, and the states after the last.

        `masks` are those of dropout: for the embedding `[B, embedding]`, for each layer `[B, units]`;
        `learning` as in `unroll`.
        """
        x = tf.gather(self.embedding, tf.transpose(ids))  # [T, B, embedding]
        last = []
        for i, state in enumerate(states):
            if masks is not None:
                x *= masks[i]
            kernel, recurrent, bias = self.layer(i)
            flat = tf.nn.bias_add(tf.matmul(tf.reshape(x, [-1, x.shape[2]]), kernel), bias)
            gates = tf.reshape(flat, [*tf.unstack(tf.shape(x)[:2]), flat.shape[1]])
            x, after = unroll(self.config.cell, gates, recurrent, state, learning)
            last.append(after)
        if masks is not None:
            x *= masks[-1]
        flat = self.output()(tf.reshape(x, [-1, self.config.units]))
        return tf.reshape(flat, [*tf.unstack(tf.shape(x)[:2]), flat.shape[1]]), last

    def output(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """The last layer's h `[N, units]` → logits `[N, K]`, a function that reads no variable."""
        bias = tf.convert_to_tensor(self.output_bias)
        if not self.config.tied:
            kernel = tf.convert_to_tensor(self.output_kernel)
            return lambda h: tf.nn.bias_add(tf.matmul(h, kernel), bias)
        projection, table = tf.convert_to_tensor(self.projection), tf.convert_to_tensor(self.embedding)
        return lambda h: tf.nn.bias_add(tf.matmul(tf.matmul(h, projection), table, transpose_b=True), bias)


def _uniform(width: int) -> keras.initializers.Initializer:
    """Uniform with variance 1 / width: a layer's outputs start as wide as its inputs."""
    return keras.initializers.RandomUniform(-((3 / width) ** 0.5), (3 / width) ** 0.5)


def _bias(config: Config) -> keras.initializers.Initializer:
    """Zeros; the LSTM's forget gate starts open, with 1 (Jozefowicz et al. 2015)."""
    gates = CELLS[config.cell].gates
    value = np.zeros([gates, config.units], np.float32)
    if config.cell == Cell.LSTM:
        value[1] = 1.0
    return lambda shape, dtype=None: tf.reshape(tf.constant(value), shape)


# Sampling ---------------------------------------------------------------------------------------


def truncated(p: tf.Tensor, top_k: tf.Tensor, top_p: tf.Tensor) -> tf.Tensor:
    """Keeps the `top_k` likeliest symbols (0: all) and of these the fewest that hold `top_p` of all
    probability (Holtzman et al. 2020, arXiv:1904.09751); the others get 0, the rest is scaled up.

    Args:
        p: probabilities `[B, K]`.
        top_k: int32 `[B]`.
        top_p: float32 `[B]` in `(0, 1]`.
    """
    descending = tf.sort(p, direction="DESCENDING")
    above = tf.cumsum(descending, axis=1, exclusive=True)  # what likelier symbols hold
    symbols = p.shape[1]
    limit = tf.where(top_k > 0, top_k, symbols)[:, None]
    kept = (tf.range(symbols)[None, :] < limit) & ((above < top_p[:, None]) | (top_p[:, None] >= 1.0))
    least = tf.reduce_min(tf.where(kept, descending, 1.0), axis=1, keepdims=True)
    p = tf.where(p >= least, p, 0.0)
    return p / tf.reduce_sum(p, axis=1, keepdims=True)


def pick(p: tf.Tensor, draw: tf.Tensor) -> tf.Tensor:
    """The symbol at which the cumulative probability passes the draw: `[B, K]`, `[B]` → int32 `[B]`."""
    cumulative = tf.cumsum(p, axis=1)
    # Of the sum, not of 1: where rounding leaves it below a draw, that would be a symbol without probability.
    passed = cumulative <= draw[:, None] * cumulative[:, -1:]
    symbol = tf.reduce_sum(tf.cast(passed, tf.int32), axis=1)
    return tf.minimum(symbol, p.shape[1] - 1)


# Losses -----------------------------------------------------------------------------------------


def cross_entropy(target: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """-log p of the symbols that came, in nats: int `[...]`, logits `[..., K]` → `[...]`."""
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=target, logits=logits)


# Training ---------------------------------------------------------------------------------------


class Model(base.Model):
    """A language model; `fit` on batches of (symbols int `[B, T]`, the ones that follow int `[B, T]`)."""

    learns = "text"
    mixed_precision = False  # a state that is added to hundreds of times loses what it had
    showpiece = "sample"
    limits = (
        "Writes in the manner of its text, without meaning or facts, and may repeat passages of it, its "
        "prejudices included."
    )

    def __init__(self, config: Config, seed: int = 0):
        config.validate()
        super().__init__(config, seed)
        keras.utils.set_random_seed(seed)
        self.network = Network(config, "network")
        self.ema_network = Network(config, "ema_network")
        self.ema_network.trainable = False
        self.ema_network.set_weights(self.network.get_weights())
        self.loss_mean = keras.metrics.Mean(name="loss")
        self.built = True

    @property
    def losses_tracked(self) -> tuple[keras.metrics.Mean, ...]:
        return (self.loss_mean,)

    @property
    def networks(self) -> dict[str, keras.Model]:
        return {"network": self.ema_network}

    def load_inference_weights(self) -> None:
        self.network.set_weights(self.ema_network.get_weights())

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        ids, following = data
        rows = tf.shape(ids)[0]
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync
        with tf.GradientTape() as tape:
            logits, _ = self.network.read(ids, self.network.start(rows), self._masks(rows), learning=True)
            loss = tf.reduce_mean(cross_entropy(tf.transpose(following), logits))
        variables = self.network.trainable_variables
        gradients = self._gradients(tape, loss, variables, self.optimizer)
        gradients = [tf.convert_to_tensor(g) for g in gradients]
        # Clipped is the norm of the whole batch's gradient; the optimizer then sums over replicas once more.
        gradients, _ = tf.clip_by_global_norm(context.all_reduce("SUM", gradients), self.config.clip_norm)
        self.optimizer.apply([g / replicas for g in gradients], variables)
        self.loss_mean.update_state(loss)
        self._update_ema()
        self._advance()
        return self._means()

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        ids, following = data
        logits, _ = self.ema_network.read(ids, self.ema_network.start(tf.shape(ids)[0]))
        self.loss_mean.update_state(cross_entropy(tf.transpose(following), logits))
        return self._means()

    def _masks(self, rows: tf.Tensor) -> list[tf.Tensor] | None:
        """0 for what is dropped, 1 / (1 - rate) for what is kept."""
        config = self.config
        if not config.dropout and not config.input_dropout:
            return None
        widths = [config.embedding, *[config.units] * config.layers]
        rates = [config.input_dropout, *[config.dropout] * config.layers]
        return [
            tf.cast(rng.replica_uniform(rows, width, self.seed, i, self.noise_step) >= rate, tf.float32)
            / (1.0 - rate)
            for i, (width, rate) in enumerate(zip(widths, rates, strict=True))
        ]

    def _update_ema(self) -> None:
        # The average starts short and grows to its full length: early weights are worth forgetting.
        step = tf.cast(self.noise_step, tf.float32)
        decay = tf.minimum(self.config.ema_decay, (1.0 + step) / (10.0 + step))
        for average, weight in zip(self.ema_network.weights, self.network.weights, strict=True):
            average.assign(weight + decay * (average - weight))

    # Serving ------------------------------------------------------------------------------------

    def preview(self, seed: int, examples: tuple[np.ndarray, ...]) -> dict[str, base.Preview]:
        """`sample`: three texts of 300 symbols, as the model writes them with nothing before; `symbols`: the
        table of the alphabet."""
        rows = 3
        seeds = tf.range(rows, dtype=tf.int64) + 1_000_000 * seed
        text = self._generate(
            tf.fill([rows], ""),
            seeds,
            tf.fill([rows], 300),
            tf.fill([rows], 0.8),
            tf.fill([rows], 0),
            tf.fill([rows], 1.0),
        )
        # Line breaks and their like would end a row of labels.
        labels = tuple(s if s.isprintable() else repr(s)[1:-1] for s in self.config.alphabet)
        return {
            "sample": "\n\n---\n\n".join(t.decode() for t in text.numpy()),
            "symbols": base.Embedding(self.ema_network.embedding.numpy(), labels),
        }

    def _encode(self, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """UTF-8 strings `[B]` → symbols int32 `[B, T]`, filled up with 0, and their numbers int32 `[B]`.

        Running the graph fails for bytes that are no UTF-8 and for symbols outside the alphabet.
        """
        codes = tf.strings.unicode_decode(text, "UTF-8", errors="strict")
        known = tf.constant([ord(symbol) for symbol in self.config.alphabet])
        found = tf.searchsorted(known, codes.flat_values)
        found = tf.minimum(found, len(self.config.alphabet) - 1)
        strange = tf.boolean_mask(codes.flat_values, tf.gather(known, found) != codes.flat_values)
        message = "the text has symbols outside the alphabet of the model; their code points: "
        with tf.control_dependencies([tf.debugging.Assert(tf.size(strange) == 0, [message, strange])]):
            ids = codes.with_flat_values(tf.identity(found))
        return ids.to_tensor(), tf.cast(ids.row_lengths(), tf.int32)

    def _generate(
        self,
        prompt: tf.Tensor,
        seed: tf.Tensor,
        length: tf.Tensor,
        temperature: tf.Tensor,
        top_k: tf.Tensor,
        top_p: tf.Tensor,
    ) -> tf.Tensor:
        """Prompts string `[B]` and options `[B]` → the prompts with `length` more symbols each."""
        prompt_ids, prompt_length = self._encode(prompt)
        total = prompt_length + length
        steps = tf.reduce_max(total)
        rows = tf.shape(seed)[0]
        network = self.ema_network
        config = self.config

        # The greedy choice is the first of those with the largest probability.
        greedy = temperature <= 0.0
        sharpness = 1.0 / tf.where(greedy, 1.0, temperature)[:, None]
        top_k = tf.where(greedy, 1, top_k)
        draws = tf.transpose(rng.row_uniform(seed, steps))  # [steps, B]
        draws = tf.where(greedy, 0.0, draws)
        fill = tf.maximum(steps - tf.shape(prompt_ids)[1], 0)
        given = tf.transpose(tf.pad(prompt_ids, [[0, 0], [0, fill]]))  # [steps, B]

        # Read here, once: what stands in the loop runs at every step.
        kernels = [network.layer(i) for i in range(config.layers)]
        table = tf.matmul(tf.convert_to_tensor(network.embedding), kernels[0][0]) + kernels[0][2]
        output = network.output()
        step = CELLS[config.cell].step

        def write(filtered: bool) -> tf.Tensor:
            def body(t, symbol, states, written):
                x = tf.gather(table, symbol)
                after = []
                for i, ((kernel, recurrent, bias), state) in enumerate(zip(kernels, states, strict=True)):
                    if i:
                        x = tf.nn.bias_add(tf.matmul(x, kernel), bias)
                    state, _ = step(x, tf.matmul(state[0], recurrent), state)
                    after.append(state)
                    x = state[0]
                p = tf.nn.softmax(output(x) * sharpness)
                if filtered:
                    p = truncated(p, top_k, top_p)
                symbol = tf.where(t < prompt_length, tf.gather(given, t), pick(p, tf.gather(draws, t)))
                return t + 1, symbol, after, written.write(t, symbol)

            start = tf.fill([rows], config.alphabet.index(START))
            written = tf.TensorArray(tf.int32, steps, element_shape=[None])
            _, _, _, written = tf.while_loop(
                lambda t, *_: t < steps, body, (0, start, network.start(rows), written)
            )
            return written.stack()  # [steps, B]

        filtering = tf.reduce_any((top_k > 0) | (top_p < 1.0))
        ids = tf.transpose(tf.cond(filtering, lambda: write(True), lambda: write(False)))
        codes = tf.gather(tf.constant([ord(symbol) for symbol in config.alphabet]), ids)
        return tf.strings.unicode_encode(tf.RaggedTensor.from_tensor(codes, total), "UTF-8")

    def _score(self, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """UTF-8 strings `[B]` → nats of each text float32 `[B]`, its symbols int32 `[B]`."""
        ids, count = self._encode(text)
        rows, longest = tf.shape(ids)[0], tf.shape(ids)[1]
        start = tf.fill([rows, 1], self.config.alphabet.index(START))
        before = tf.concat([start, ids], axis=1)[:, :longest]
        network = self.ema_network

        def body(t, states, nll):
            end = tf.minimum(t + _CHUNK, longest)
            logits, states = network.read(before[:, t:end], states)
            loss = tf.transpose(cross_entropy(tf.transpose(ids[:, t:end]), logits))  # [B, t]
            loss = tf.where(tf.range(t, end)[None, :] < count[:, None], loss, 0.0)
            # In float64: a text of 100,000 symbols has more digits than float32 holds.
            return end, states, nll + tf.reduce_sum(tf.cast(loss, tf.float64), axis=1)

        _, _, nll = tf.while_loop(
            lambda t, *_: t < longest, body, (0, network.start(rows), tf.zeros([rows], tf.float64))
        )
        return tf.cast(nll, tf.float32), count

    def signatures(self) -> dict[str, base.Signature]:
        @tf.function(
            input_signature=[
                tf.TensorSpec([None], tf.string, "prompt"),
                tf.TensorSpec([None], tf.int64, "seed"),
                tf.TensorSpec([None], tf.int32, "length"),
                tf.TensorSpec([None], tf.float32, "temperature"),
                tf.TensorSpec([None], tf.int32, "top_k"),
                tf.TensorSpec([None], tf.float32, "top_p"),
            ]
        )
        def generate(
            prompt,
            seed=tf.constant([0], tf.int64),  # noqa: B008
            length=tf.constant([200]),  # noqa: B008
            temperature=tf.constant([1.0]),  # noqa: B008
            top_k=tf.constant([0]),  # noqa: B008
            top_p=tf.constant([1.0]),  # noqa: B008
        ):
            """The prompt with `length` more symbols. Temperature 0 takes the likeliest one each time; top_k 0
            and top_p 1 leave all of them to choose from."""
            rows = tf.shape(prompt)
            options = (tf.broadcast_to(x, rows) for x in (seed, length, temperature, top_k, top_p))
            return {"text": self._generate(prompt, *_checked(*options))}

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
        def score(text):
            """How improbable the text is after a line feed, in nats, summed over its symbols."""
            nll, count = self._score(text)
            return {"nll": nll, "count": count}

        return {"generate": generate, "score": score}

    def example_requests(self) -> dict[str, dict[str, np.ndarray]]:
        symbols = self.config.alphabet
        some = "".join(symbols[i * (len(symbols) - 1) // 5] for i in range(6))
        texts = np.array([some.encode(), some[:3].encode(), some[2:].encode()], object)
        return {
            "generate": {
                "prompt": texts,
                "seed": np.arange(3, dtype=np.int64),
                "length": np.array([20, 8, 0], np.int32),
                "temperature": np.array([1.0, 0.0, 0.7], np.float32),
                "top_k": np.array([0, 0, 3], np.int32),
                "top_p": np.array([1.0, 1.0, 0.9], np.float32),
            },
            "score": {"text": texts},
        }


def _checked(seed, length, temperature, top_k, top_p) -> tuple[tf.Tensor, ...]:
    """The options as they are; running the graph fails where one is out of its range."""
    length_message = f"length is outside the range 0 to {MAX_LENGTH}"
    legal = [
        (length >= 0, length_message),
        (length <= MAX_LENGTH, length_message),
        ((temperature >= 0.0) & tf.math.is_finite(temperature), "temperature must be 0 or more, and finite"),
        (top_k >= 0, "top_k must be 0 (all symbols) or more"),
        ((top_p > 0.0) & (top_p <= 1.0), "top_p must be above 0 and at most 1"),
    ]
    checks = [tf.debugging.Assert(tf.reduce_all(holds), [message]) for holds, message in legal]
    with tf.control_dependencies([c for c in checks if c is not None]):
        return seed, *(tf.identity(x) for x in (length, temperature, top_k, top_p))
