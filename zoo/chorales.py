"""Four-part chorales: a recurrent memory of the frames so far, and a chain of voices inside each frame.

After Boulanger-Lewandowski et al. 2012, "Modeling Temporal Dependencies in High-Dimensional Sequences"
(arXiv:1206.6392): a recurrent network sets the parameters of an autoregressive model (NADE, Larochelle &
Murray 2011) of the notes that sound together. Here the chain has one link for each voice, soprano → alto →
tenor → bass, and each link is a softmax over the 88 keys and silence. The memory is a GRU (Cho et al. 2014,
arXiv:1406.1078); a dropout mask stays the same over a window (Gal & Ghahramani 2016, arXiv:1512.05287).

What its figure means: the literature's number is -log p, per quarter note, of the *roll*, the sets of keys
that sound. This model gives probabilities to frames of four voices, so

    p(roll) = Σ p(frames) over all sequences of frames with the roll's sets  ≥  p(one such sequence)

and -log p of one sequence, which is what `score` answers, is an upper bound of the roll's, however the notes
were given to voices: one each where there are four, a unison or a silent voice where there are fewer
(`train.data.chorales.sung`). The model also pays for saying who sings what; it gives the roll more than the
bound says. More than four keys at once have probability 0; the chorales have none. Given are the beginning of
a piece (its first frame follows `START`) and its length: no end is predicted, as in the literature.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from zoo import base, rng, rnn

VOICES = 4  # soprano, alto, tenor, bass
LOWEST, HIGHEST = 21, 108  # the piano's 88 keys, as MIDI numbers
SILENCE, OPEN, START = (
    0,
    -1,
    -2,
)  # instead of a note: none; one to compose, or past the end; before the first frame
_CLASSES = HIGHEST - LOWEST + 2  # silence and the keys
NAMES = ("soprano", "alto", "tenor", "bass")


@dataclasses.dataclass
class Config:
    """What a chorale model is made of."""

    embedding: int = 32  # numbers that stand for a note of a voice
    units: int = 256  # of the GRU
    hidden: int = 256  # units between context and softmax, for each voice
    dropout: float = 0.0  # share of the inputs of GRU and of voices that a training window does without
    particles: int = 16  # lines of composition kept while given notes lie ahead

    def validate(self) -> None:
        """Raises `ValueError` that names the field, its value and what is expected."""
        for name in ("embedding", "units", "hidden", "particles"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: at least 1 is expected")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout}: a number in [0, 1) is expected")


# Networks ---------------------------------------------------------------------------------------


def embedder(config: Config) -> keras.Model:
    """Codes of a frame int `[..., 4]` → `[..., 4 * embedding]`, a table for each voice."""
    code = keras.Input((None, VOICES), dtype="int32", name="code")
    table = keras.layers.Embedding(VOICES * (_CLASSES + 1), config.embedding, name="note")
    x = table(code + np.arange(VOICES, dtype=np.int32) * (_CLASSES + 1))  # [B, T, 4, E]
    x = keras.layers.Reshape((-1, VOICES * config.embedding), name="frame")(x)
    return keras.Model(code, x, name="embedder")


class Memory(keras.Model):
    """A GRU over frames: what it remembers when a frame is about to come."""

    def __init__(self, config: Config):
        super().__init__(name="memory")
        width, gates = VOICES * config.embedding, 3 * config.units
        self.kernel = self.add_weight(name="kernel", shape=(width, gates), initializer="glorot_uniform")
        self.recurrent = self.add_weight(
            name="recurrent", shape=(config.units, gates), initializer="orthogonal"
        )
        self.bias = self.add_weight(name="bias", shape=(gates,), initializer="zeros")
        self.built = True

    def call(self, past: tf.Tensor) -> tf.Tensor:
        """Embedded frames `[B, T, D]` of pieces, or windows, from their beginning → `[B, T, units]`."""
        gates = tf.transpose(tf.tensordot(past, self.kernel, 1) + self.bias, [1, 0, 2])  # [T, B, 3 units]
        state = tf.zeros([tf.shape(past)[0], self.recurrent.shape[0]])
        remembered, _ = rnn.unroll(rnn.Cell.GRU, gates, tf.convert_to_tensor(self.recurrent), (state,))
        return tf.transpose(remembered, [1, 0, 2])

    def step(self, past: tf.Tensor, state: tf.Tensor) -> tf.Tensor:
        """One frame `[B, D]` and the state before it `[B, units]` → the state after it."""
        gates = tf.matmul(past, self.kernel) + self.bias
        (state,), _ = rnn.gru_step(gates, tf.matmul(state, self.recurrent), (state,))
        return state


def voice(config: Config, index: int) -> keras.Model:
    """What a voice knows `[B, T, D]` → logits `[B, T, classes]`.

    It knows the memory, the frame before, and the notes that the voices above it sing now.
    """
    width = config.units + (VOICES + index) * config.embedding
    context = keras.Input((None, width), name="context")
    x = keras.layers.Dense(config.hidden, activation="relu", name="hidden")(context)
    logits = keras.layers.Dense(_CLASSES, name="logits")(x)
    return keras.Model(context, logits, name=NAMES[index])


# Losses -----------------------------------------------------------------------------------------


def codes(notes: tf.Tensor) -> tf.Tensor:
    """Notes as the networks number them: silence (and past the end) 0, the keys from 1 on, `START` last."""
    code = tf.where(notes > 0, notes - LOWEST + 1, 0)
    return tf.where(notes == START, _CLASSES, code)


def note_nll(notes: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """-log softmax(logits)[note], in nats; 0 where the note is `OPEN`.

    Args:
        notes: int `[..., 4]`.
        logits: float `[..., 4, classes]`.

    Returns:
        float `[..., 4]`.
    """
    nll = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=codes(notes), logits=logits)
    return tf.where(notes == OPEN, 0.0, nll)


# Training ---------------------------------------------------------------------------------------


class Model(base.Model):
    """`fit` on batches of (frames before int `[B, T, 4]`, frames int `[B, T, 4]`)."""

    learns = "music"
    xla = False  # its loop keeps a list of states
    mixed_precision = False  # a state that is added to hundreds of times loses what it had
    showpiece = "composed"
    limits = (
        "Writes exercises in the style of its data, in four voices and quarter notes, with forbidden "
        "parallels more often than Bach. No long form, no words, no dynamics."
    )

    def __init__(self, config: Config, seed: int = 0):
        config.validate()
        super().__init__(config, seed)
        keras.utils.set_random_seed(seed)
        self.embedder = embedder(config)
        self.memory = Memory(config)
        self.soprano, self.alto, self.tenor, self.bass = (voice(config, i) for i in range(VOICES))
        self.nll_mean = keras.metrics.Mean(name="nll")
        self.built = True

    @property
    def losses_tracked(self) -> tuple[keras.metrics.Mean, ...]:
        return (self.nll_mean,)

    @property
    def networks(self) -> dict[str, keras.Model]:
        return {n: getattr(self, n) for n in ("embedder", "memory", *NAMES)}

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        before, frames = data
        with tf.GradientTape() as tape:
            nll = note_nll(frames, self._logits(before, frames, training=True))
            # Over the places of the window, past the end or not: so that replicas' gradients add up.
            loss = VOICES * tf.reduce_mean(nll)
        self._learn(tape, loss)
        return self._track(frames, nll)

    def test_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, tf.Tensor]:
        before, frames = data
        return self._track(frames, note_nll(frames, self._logits(before, frames)))

    def _track(self, frames: tf.Tensor, nll: tf.Tensor) -> dict[str, tf.Tensor]:
        count = tf.reduce_sum(tf.cast(frames[..., 0] != OPEN, tf.float32))
        self.nll_mean.update_state(tf.reduce_sum(nll) / count, sample_weight=count)
        return self._means()

    def _logits(self, before: tf.Tensor, frames: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Frames int `[B, T, 4]` and those before them → logits of their notes `[B, T, 4, classes]`."""
        past, now = self.embedder(codes(before)), self.embedder(codes(frames))  # [B, T, 4E]
        remembered = self.memory(self._dropped(past, 0) if training else past)
        logits = []
        for i in range(VOICES):
            context = self._context(remembered, past, now, i)
            logits.append(self._voice(i, self._dropped(context, 1 + i) if training else context))
        return tf.stack(logits, axis=2)

    def _context(self, remembered: tf.Tensor, past: tf.Tensor, now: tf.Tensor, index: int) -> tf.Tensor:
        return tf.concat([remembered, past, now[..., : index * self.config.embedding]], axis=-1)

    def _voice(self, index: int, context: tf.Tensor) -> tf.Tensor:
        return (self.soprano, self.alto, self.tenor, self.bass)[index](context)

    def _dropped(self, x: tf.Tensor, stream: int) -> tf.Tensor:
        """`[B, T, D]` without a share of its D columns, drawn for each row, the rest larger in exchange."""
        rate = self.config.dropout
        if not rate:
            return x
        noise = rng.replica_normal(tf.shape(x)[0], x.shape[-1], self.seed, stream, self.noise_step)
        kept = tf.cast(noise > tf.math.ndtri(rate), x.dtype)[:, None, :]
        return x * kept / (1.0 - rate)

    # Serving ------------------------------------------------------------------------------------

    def preview(self, seed: int, examples: tuple[np.ndarray, ...]) -> dict[str, base.Preview]:
        """`composed`: 64 frames from nothing; `harmonized`: three voices for an example's soprano."""
        notes = {
            "composed": tf.fill([1, 64, VOICES], OPEN),
            "harmonized": _below(tf.constant(examples[1][:1, :, 0])),
        }
        seeds, temperature = tf.constant([seed], tf.int64), tf.constant([1.0])
        specs = [
            tf.TensorSpec([None, None, VOICES], tf.int32),
            tf.TensorSpec([None], tf.int64),
            tf.TensorSpec([None], tf.float32),
        ]
        # Op by op, its loops take ten times as long.
        composed = tf.function(self._composed, input_signature=specs)
        return {name: composed(n, seeds, temperature)[0].numpy() for name, n in notes.items()}

    def _composed(self, notes: tf.Tensor, seed: tf.Tensor, temperature: tf.Tensor) -> tf.Tensor:
        """Notes int `[B, T, 4]` with the `OPEN` ones drawn; seed int64 `[B]`, temperature float `[B]`.

        Notes are drawn in order, each given those before it. A given note that lies ahead has its say by
        sequential importance resampling (Gordon et al. 1993): `particles` lines are composed side by side
        and weighted by the probability that they give to the given notes; where few lines hold most of the
        weight, all go on as copies of them. With ever more lines this draws from p(open | given notes).
        With 16, 32 sopranos of the validation split got voices as probable as Bach's (4.504 nats a frame,
        his 4.505); with one line, which never looks ahead, 5.39.
        """
        rows, length = tf.shape(notes)[0], tf.shape(notes)[1]
        particles = self.config.particles
        given = tf.reshape(notes != OPEN, [rows, length * VOICES])
        ahead = tf.reduce_any(given & (tf.cumsum(tf.cast(~given, tf.int32), axis=1) > 0), axis=1)  # [B]
        # Rows with nothing ahead answer with their first line: so the other rows are nothing to them.
        lines = tf.where(tf.reduce_any(ahead), particles, 1)
        uniform = rng.row_uniform(seed, 1 + length * (1 + particles * VOICES))
        of_end, uniform = uniform[:, 0], tf.reshape(uniform[:, 1:], [rows, length, 1 + particles * VOICES])
        heat = tf.repeat(tf.maximum(temperature, 1e-4), lines)[:, None]  # [B * K, 1]

        frame = tf.fill([rows * lines, VOICES], START)
        state = tf.zeros([rows * lines, self.config.units])
        weight = tf.zeros([rows, lines])  # logarithms
        frames = tf.TensorArray(tf.int32, size=length, element_shape=[None, None, VOICES])
        parents = tf.TensorArray(tf.int32, size=length, element_shape=[None, None])
        for t in tf.range(length):
            past = self.embedder(codes(frame)[:, None])  # [B * K, 1, 4 * embedding]
            state = self.memory.step(past[:, 0], state)
            wanted = tf.repeat(notes[:, t], lines, axis=0)  # [B * K, 4]
            draws = tf.reshape(uniform[:, t, 1 : 1 + lines * VOICES], [rows * lines, VOICES])
            frame = tf.zeros_like(wanted)
            for i in range(VOICES):
                context = self._context(state[:, None], past, self.embedder(codes(frame)[:, None]), i)
                logits = self._voice(i, context)[:, 0]  # [B * K, classes]
                drawn = _drawn(tf.nn.softmax(logits / heat), draws[:, i])
                drawn = tf.where(drawn > 0, drawn + LOWEST - 1, SILENCE)
                note = tf.where(wanted[:, i] == OPEN, drawn, wanted[:, i])
                frame += note[:, None] * tf.one_hot(i, VOICES, dtype=tf.int32)
                weight -= tf.reshape(note_nll(wanted[:, i], logits), [rows, lines])
            weight, parent = _resampled(weight, uniform[:, t, 0])
            index = tf.reshape(parent + lines * tf.range(rows)[:, None], [-1])
            frame, state = tf.gather(frame, index), tf.gather(state, index)
            frames = frames.write(t, tf.reshape(frame, [rows, lines, VOICES]))
            parents = parents.write(t, parent)

        line = tf.where(ahead, _drawn(tf.nn.softmax(weight), of_end), 0)  # [B]
        composed = tf.TensorArray(tf.int32, size=length, element_shape=[None, VOICES])
        for t in tf.range(length - 1, -1, -1):
            composed = composed.write(t, tf.gather(frames.read(t), line, batch_dims=1))
            line = tf.gather(parents.read(t), line, batch_dims=1)
        return tf.transpose(composed.stack(), [1, 0, 2])  # [B, T, 4]

    def signatures(self) -> dict[str, base.Signature]:
        rows = tf.TensorSpec([None], tf.int64, "seed"), tf.TensorSpec([None], tf.float32, "temperature")

        def composed(notes, seed, temperature):
            count = tf.shape(seed)
            cold = tf.debugging.assert_non_negative(temperature, "a temperature is below 0")
            with tf.control_dependencies([c for c in [cold] if c is not None]):
                temperature = tf.broadcast_to(temperature, count)
            return {"notes": self._composed(_checked(notes), seed, temperature)}

        @tf.function(input_signature=[tf.TensorSpec([None, None, VOICES], tf.int32, "notes"), *rows])
        def generate(notes, seed, temperature=tf.constant([1.0])):  # noqa: B008
            """MIDI numbers, soprano first: given ones are kept, those that are -1 composed, 0 is silence.

            All -1 asks for a new piece; whole frames, then -1, for a continuation. Temperature 1 is as
            learnt; less is more expected, 0 the most probable note each time.
            """
            return composed(notes, seed, temperature)

        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32, "soprano"), *rows])
        def harmonize(soprano, seed, temperature=tf.constant([1.0])):  # noqa: B008
            """Alto, tenor and bass for a melody in quarter notes: `generate` with a soprano that is given."""
            return composed(_below(soprano), seed, temperature)

        @tf.function(input_signature=[tf.TensorSpec([None, None, VOICES], tf.int32, "notes")])
        def score(notes):
            """-log p of whole pieces, in nats, by voice and in sum; frames of -1 may follow a shorter one."""
            frames = _checked(notes)
            ended = frames == OPEN
            message = "a note is open (-1) in a piece to score; only whole frames after its end may be"
            checks = [
                tf.debugging.assert_equal(tf.reduce_any(ended, 2), tf.reduce_all(ended, 2), message),
                tf.debugging.assert_equal(ended, tf.cumsum(tf.cast(ended, tf.int32), axis=1) > 0, message),
            ]
            with tf.control_dependencies([c for c in checks if c is not None]):
                before = tf.pad(frames[:, :-1], [[0, 0], [1, 0], [0, 0]], constant_values=START)
            nll = tf.reduce_sum(note_nll(frames, self._logits(before, frames)), axis=1)  # [B, 4]
            count = tf.reduce_sum(tf.cast(~ended[..., 0], tf.int32), axis=1)
            return {"nll": tf.reduce_sum(nll, axis=1), "voice_nll": nll, "count": count}

        return {"generate": generate, "harmonize": harmonize, "score": score}

    def example_requests(self) -> dict[str, dict[str, np.ndarray]]:
        chord = np.array([67, 64, 60, 48], np.int32)
        pieces = np.full((3, 6, VOICES), OPEN, np.int32)  # one from nothing, one to continue, one with a bass
        pieces[1, :2], pieces[2, :, 3] = chord, [48, 53, 55, 57, 55, 48]
        scored = np.repeat(chord[None, None] + np.array([0, 2, -3], np.int32)[:, None, None], 6, axis=1)
        scored[1, 4:], scored[2, 0, 1:] = OPEN, SILENCE
        drawn: dict[str, np.ndarray] = {
            "seed": np.arange(3, dtype=np.int64),
            "temperature": np.array([1.0, 0.7, 1.2], np.float32),
        }
        soprano = np.array([[67, 69, 71, 72], [72, 71, 69, 67], [64, 0, 67, -1]], np.int32)
        return {
            "generate": {"notes": pieces, **drawn},
            "harmonize": {"soprano": soprano, **drawn},
            "score": {"notes": scored},
        }


def _below(soprano: tf.Tensor) -> tf.Tensor:
    """int `[B, T]` → `[B, T, 4]`: three open voices below a melody."""
    return tf.pad(soprano[..., None], [[0, 0], [0, 0], [0, VOICES - 1]], constant_values=OPEN)


def _checked(notes: tf.Tensor) -> tf.Tensor:
    """The notes as they are; running the graph fails where one is neither a key, `SILENCE` nor `OPEN`."""
    known = (notes == OPEN) | (notes == SILENCE) | ((notes >= LOWEST) & (notes <= HIGHEST))
    message = f"a note is not -1 (open), 0 (silence) or a MIDI number from {LOWEST} to {HIGHEST}"
    check = tf.debugging.Assert(tf.reduce_all(known), [message])
    with tf.control_dependencies([] if check is None else [check]):
        return tf.identity(notes)


def _drawn(probability: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """The class whose share of [0, 1) a uniform number falls in: `[B, K]`, `[B]` → int32 `[B]`."""
    edges = tf.cumsum(probability, axis=1)
    # A little below the last edge, which rounding puts at not quite 1.
    point = 0.999999 * uniform[:, None] * edges[:, -1:]
    return tf.reduce_sum(tf.cast(edges <= point, tf.int32), axis=1)


def _resampled(weight: tf.Tensor, uniform: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Systematic resampling (Kitagawa 1996) of the rows whose effective number of lines is below half.

    Args:
        weight: log weights `[B, K]`.
        uniform: `[B]` in [0, 1).

    Returns:
        The new log weights `[B, K]`, and for each line the one that it goes on from, int32 `[B, K]`.
    """
    lines = tf.shape(weight)[1]
    share = tf.nn.softmax(weight)
    effective = 1.0 / tf.reduce_sum(tf.square(share), axis=1, keepdims=True)  # [B, 1]
    poor = effective < 0.5 * tf.cast(lines, tf.float32)
    points = (tf.cast(tf.range(lines), tf.float32) + uniform[:, None]) / tf.cast(lines, tf.float32)
    edges = tf.cumsum(share, axis=1)[:, None, :]  # [B, 1, K]
    parent = tf.reduce_sum(tf.cast(edges <= points[:, :, None], tf.int32), axis=2)
    parent = tf.where(poor, tf.minimum(parent, lines - 1), tf.range(lines)[None, :])
    return tf.where(poor, 0.0, weight), parent
