"""The one training loop, for every family and every strategy.

A `tf.function` runs `strategy.run(model.train_step)` inside `tf.range`: the one form that works under one
device, MirroredStrategy and MultiWorkerMirroredStrategy alike with Keras 3, and the fastest. All that a
step draws (order of the data, augmentation, noise) is a function of the seed and the step, so a resumed
run repeats the killed one to the bit.
"""

import contextlib
import dataclasses
import itertools
import math
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

import zoo
from train import config as config_lib
from train import flops, optimizers, preemption, writers
from train import strategy as strategy_lib
from train.data.dataset import DataSet
from train.image_grid import image_grid
from zoo import base, pretrained
from zoo import workdir as workdir_lib
from zoo.errors import UserError
from zoo.files import atomic_write

EVAL_BATCH = 500
NO_PROFILE = (-1, -1)
# What TensorFlow's collectives raise when another worker does not answer.
_LOST = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)


def train(
    config: config_lib.Config,
    workdir: pathlib.Path,
    data: DataSet,
    strategy: tf.distribute.Strategy,
    signalled: Callable[[], int] = lambda: 0,
    profile: tuple[int, int] = NO_PROFILE,
) -> workdir_lib.Trained:
    """Trains until `config.steps`, or goes on where the work directory stops.

    Args:
        config: a validated configuration.
        workdir: gets `config.json`, `checkpoints/`, `metrics.jsonl`, TensorBoard events and
            `previews/`; a second run with the same one resumes.
        data: what to learn from.
        strategy: where to run; never changes the result beyond rounding.
        signalled: the signal that asks this process to stop, or 0; looked at after each call of the
            compiled loop. All workers stop where one is asked to.
        profile: the first and the last step of a profile for TensorBoard.

    Returns:
        What the newest checkpoint holds, as `zoo.workdir.load` would read it.

    Raises:
        UserError: a work directory of another configuration, a damaged checkpoint, a disk that
            takes no more, or a loss that is not finite.
        preemption.Stopped: after a signal, with everything saved.
        preemption.WorkerLost: another worker is gone; what it and this one did since the last checkpoint
            is lost.
    """
    try:
        return _train(config, workdir, data, strategy, signalled, profile)
    except _LOST as error:
        # Nobody can go on: TensorFlow's collectives stay broken until every worker has started anew.
        reason = error.message.rpartition("}} ")[2].partition(" [Op:")[0].splitlines()[0][:200]
        raise preemption.WorkerLost(
            f"a worker of the cluster is gone ({reason}); start all workers again: they go on from the last"
            f" checkpoint in {workdir / 'checkpoints'}"
        ) from error


def _train(
    config: config_lib.Config,
    workdir: pathlib.Path,
    data: DataSet,
    strategy: tf.distribute.Strategy,
    signalled: Callable[[], int],
    profile: tuple[int, int],
) -> workdir_lib.Trained:
    # 1. The configuration, completed by the data, and its work directory.
    config = with_data(config, data)
    if config.xla and strategy.num_replicas_in_sync > 1:
        raise UserError(
            f"config.xla=True: {strategy.num_replicas_in_sync} replicas are not compiled together;"
            " --strategy=one_device is expected"
        )
    chief = strategy_lib.is_chief(strategy)
    if chief:
        _claim(workdir, config)

    # 2. Model, optimizers and counters, in the strategy's scope and complete before the first step.
    with strategy.scope(), optimizers.computing_in(config.mixed_precision):
        model = zoo.build(config.family, config.model, config.seed)
        model.compile(optimizers.make(config.optimizer, config.steps, config.mixed_precision))
        step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
        seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False, name="seconds")
        best = tf.Variable(np.inf, dtype=tf.float64, trainable=False, name="best")
    _check_best(config, model)

    # 3. Resume.
    checkpoint = tf.train.Checkpoint(
        model=model, step=step, seconds=seconds, best=best, means=_means(model), **model.optimizers
    )
    with _checkpoint_directory(workdir / "checkpoints", chief) as directory:
        for folder in (directory, f"{directory}/best"):
            workdir_lib.drop_empty_index(pathlib.Path(folder))
        manager = tf.train.CheckpointManager(checkpoint, directory, max_to_keep=config.keep_checkpoints)
        best_manager = tf.train.CheckpointManager(checkpoint, f"{directory}/best", max_to_keep=1)
        workdir_lib.restore(checkpoint, workdir / "checkpoints")
        done = int(step.numpy())
        _check_agreement(strategy, done, workdir)
        if profile != NO_PROFILE and not done <= profile[0] < profile[1] <= config.steps:
            raise UserError(
                f"--profile_steps={profile[0]},{profile[1]}: this run goes from step {done} to {config.steps}"
            )

        # 4. Data, from the step where the run stands.
        shard = strategy_lib.shard(strategy)
        batches = strategy.distribute_datasets_from_function(
            lambda _: data.train_batches(config.data, seed=config.seed, start_step=done, shard=shard)
        )
        examples = data.examples()
        iterator = iter(batches)
        run_steps = _step_function(model, strategy, config.xla)
        run_eval = _eval_function(model, strategy, data, config.data)
        workers = shard.replicas // shard.local
        operations: float | None = None  # of a step, on all workers
        sinks = _writers(config, workdir, done) if chief else writers.MultiWriter([])

        # 5. Step, log, evaluate, preview, save.
        with contextlib.closing(sinks), contextlib.ExitStack() as profiler:
            start = time.monotonic() - float(seconds.numpy())
            stopping = False
            for stop in _stops(done, config):
                began, before, waited = time.monotonic(), done, 0.0
                while done < stop and not stopping:
                    if chief and done == profile[0]:
                        tf.profiler.experimental.start(str(workdir))
                        profiler.callback(tf.profiler.experimental.stop)
                    ahead = [edge - done for edge in (stop, *profile) if edge > done]
                    count = tf.constant(min(config.steps_per_execution, *ahead))
                    arguments = iterator, count, tf.constant(float(signalled() != 0))
                    bad, stopping, waiting = (x.numpy() for x in run_steps(*arguments))
                    _check_finite(model, bad, done, manager)
                    done, waited = done + int(count), waited + waiting
                    if done == profile[1]:
                        profiler.close()
                last = done == config.steps
                step.assign(done)
                seconds.assign(time.monotonic() - start)
                if done == stop:
                    losses = {m.name: float(m.result()) for m in model.losses_tracked}
                    elapsed = time.monotonic() - began
                    rate = (done - before) / elapsed
                    rates = {
                        "rate/steps_per_second": rate,
                        f"rate/{data.unit}_per_second": rate * config.data.batch_size,
                        "rate/input_wait": waited / elapsed,
                    }
                    if operations is None:
                        graph = run_steps.get_concrete_function(*arguments)
                        operations = workers * (flops.of_step(graph, config.data.length) or math.nan)
                    if math.isfinite(operations):
                        rates["rate/gflops"] = 1e-9 * operations * rate
                    sinks.scalars(done, losses | rates)
                    _reset(model, strategy)
                    if last or done % config.eval_every == 0:
                        held_out = run_eval()
                        sinks.scalars(done, {f"eval/{k}": v for k, v in held_out.items()})
                        if config.keep_best and (value := _to_lower(config, held_out)) < best.numpy():
                            best.assign(value)
                            _save(model, best_manager, done)
                    if chief and (last or done % config.preview_every == 0):
                        _show(sinks, done, model.preview(config.seed, examples))
                    sinks.flush()
                if last or stopping or done % config.checkpoint_every == 0:
                    _save(model, manager, done)
                if stopping and not last:
                    raise preemption.Stopped(done, signalled())
    return workdir_lib.Trained(model, pretrained.config_to_json(config), done, float(seconds.numpy()))


def with_data(config: config_lib.Config, data: DataSet) -> config_lib.Config:
    """The configuration with what the data decide about its model, such as the shape of the images.

    Raises:
        UserError: the family cannot learn these data, or not in the way that is configured.
    """
    kind = zoo.family(config.family).Model
    learns = kind.learns
    if config.mixed_precision != config_lib.Precision.FLOAT32 and not kind.mixed_precision:
        raise UserError(
            f"config.mixed_precision={config.mixed_precision}: family {config.family} learns in float32 alone"
        )
    if config.xla and not kind.xla:
        raise UserError(f"config.xla=True: family {config.family} is not compiled by XLA; leave it out")
    if learns != data.kind:
        raise UserError(f"data set {data.name} holds {data.kind}, but family {config.family} learns {learns}")
    known = {field.name for field in dataclasses.fields(config.model)}
    decided = {name: value for name, value in data.for_model.items() if name in known}
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **decided))


def _claim(workdir: pathlib.Path, config: config_lib.Config) -> None:
    """Writes config.json, or checks that the run already there is this one.

    A run that failed before its first checkpoint has nothing to lose: its mistake may be mended.
    """
    path = workdir / "config.json"
    if not path.exists() or not any((workdir / "checkpoints").glob("*.index")):
        workdir.mkdir(parents=True, exist_ok=True)
        atomic_write(path, config_lib.to_json(config).encode())
        return
    if changed := config_lib.differences(config_lib.read(path), config):
        raise UserError(
            f"{workdir} holds a run of another configuration ({'; '.join(changed)});"
            " choose another --workdir, or the same configuration to resume"
        )


class _checkpoint_directory:
    """The chief's checkpoints are kept; the other workers must save too (it is a collective), so
    theirs go where they can be forgotten."""

    def __init__(self, directory: pathlib.Path, chief: bool):
        self._directory, self._chief = directory, chief

    def __enter__(self) -> str:
        if not self._chief:
            self._directory = pathlib.Path(tempfile.mkdtemp(prefix="atelier-worker-"))
        return str(self._directory)

    def __exit__(self, *_) -> None:
        if not self._chief:
            shutil.rmtree(self._directory, ignore_errors=True)


def _save(model: base.Model, manager: tf.train.CheckpointManager, done: int) -> None:
    for weight in model.weights:
        # The losses of the last step were finite, what it did to the weights may not be.
        if not np.isfinite(weight.numpy()).all():
            raise UserError(f"weight {weight.path} is not finite after step {done}; {_last_good(manager)}")
    try:
        manager.save(checkpoint_number=done)
    except _LOST:
        raise
    except (tf.errors.OpError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"cannot write checkpoint {done} in {manager.directory} ({reason}); {_last_good(manager)}"
        ) from error


def _last_good(manager: tf.train.CheckpointManager) -> str:
    if not manager.latest_checkpoint:
        return "there is no earlier checkpoint"
    return f"the last good checkpoint is {manager.latest_checkpoint}"


def _check_best(config: config_lib.Config, model: base.Model) -> None:
    names = [m.name for m in model.losses_tracked]
    if config.keep_best not in ("", *names):
        raise UserError(f"config.keep_best={config.keep_best!r}: one of {', '.join(names)} is expected")


def _to_lower(config: config_lib.Config, held_out: dict[str, float]) -> float:
    """What is the lower the better."""
    value = held_out[config.keep_best]
    return -value if config.keep_best == "accuracy" else value


def _step_function(model: base.Model, strategy: tf.distribute.Strategy, xla: bool):
    """n steps in one call. Returns [step, loss] of the first value that was not finite, or [-1, -1]; whether
    this worker or another one wants to stop; and the seconds that steps have waited for their data.

    `train_step` returns running means: once a loss is not finite, its mean stays so.
    """
    names = [m.name for m in model.losses_tracked]
    train_step = tf.function(model.train_step, jit_compile=True) if xla else model.train_step

    @tf.function
    def run_steps(iterator, count, wanted):
        bad, waited = tf.constant([-1, -1]), tf.constant(0.0, tf.float64)
        for i in tf.range(count):
            with tf.control_dependencies([bad]):  # the step before is done
                began = tf.timestamp()
            with tf.control_dependencies([began]):
                batch = next(iterator)
            with tf.control_dependencies(tf.nest.flatten(strategy.experimental_local_results(batch))):
                waited += tf.timestamp() - began
            results = strategy.run(train_step, args=(batch,))
            values = tf.stack(
                [tf.add_n(strategy.experimental_local_results(results[name])) for name in names]
            )
            broken = tf.logical_not(tf.math.is_finite(values))
            if bad[0] < 0 and tf.reduce_any(broken):
                first = tf.argmax(tf.cast(broken, tf.int32), output_type=tf.int32)
                bad = tf.stack([i, first])
        return bad, _sum(strategy, wanted) > 0, waited

    return run_steps


def _sum(strategy: tf.distribute.Strategy, value: tf.Tensor) -> tf.Tensor:
    """Over all replicas of all workers."""

    def of_replica() -> tf.Tensor:
        # The identity is on this replica's device, which is where the sum comes to.
        return tf.distribute.get_replica_context().all_reduce("SUM", tf.identity(value))

    return strategy.experimental_local_results(strategy.run(of_replica))[0]


def _check_agreement(strategy: tf.distribute.Strategy, done: int, workdir: pathlib.Path) -> None:
    """Raises `UserError` unless every worker has found the same checkpoint."""
    total, squares = _sum(strategy, tf.constant([done, done**2], tf.float64)).numpy()
    if strategy.num_replicas_in_sync * squares != total**2:
        raise UserError(
            f"the workers disagree on what {workdir} holds: this one found a checkpoint of step {done};"
            " --workdir must be one folder that all of them see"
        )


def _means(model: base.Model) -> tf.train.Checkpoint:
    """The running means: a run that is stopped between two lines of metrics.jsonl loses no half of one."""
    variables = {f"{m.name}_{v.name}": v.value for m in model.losses_tracked for v in m.variables}
    return tf.train.Checkpoint(**variables)


def _check_finite(model: base.Model, bad: np.ndarray, done: int, manager) -> None:
    if bad[0] >= 0:
        name = model.losses_tracked[bad[1]].name
        raise UserError(
            f"{name} is not finite at step {done + int(bad[0]) + 1}; {_last_good(manager)};"
            " a lower config.optimizer.learning_rate in another --workdir is the usual cure"
        )


def _eval_function(
    model: base.Model, strategy: tf.distribute.Strategy, data: DataSet, settings: config_lib.Data
):
    """Means over the held-out split. Every replica sees every batch: a last batch smaller than the
    replica count breaks a sharded pass, and identical means average to themselves."""

    @tf.function
    def eval_step(batch):
        strategy.run(model.test_step, args=(batch,))

    def run_eval() -> dict[str, float]:
        for batch in data.eval_batches(settings, EVAL_BATCH):
            eval_step(batch)
        means = {m.name: float(m.result()) for m in model.losses_tracked}
        _reset(model, strategy)
        return means

    return run_eval


def _reset(model: base.Model, strategy: tf.distribute.Strategy) -> None:
    with strategy.scope():
        for metric in model.losses_tracked:
            metric.reset_state()


def _show(sinks: writers.Writer, step: int, previews: dict[str, base.Preview]) -> None:
    for name, value in previews.items():
        if isinstance(value, str):
            sinks.text(step, {name: value})
        elif isinstance(value, base.Embedding):
            sinks.embeddings(step, {name: value})
        elif value.dtype.kind == "i":
            sinks.notes(step, {name: value})
        else:
            sinks.images(step, {name: _grid(value)})


def _grid(images: np.ndarray) -> np.ndarray:
    rows, columns, *shape = images.shape
    return image_grid(images.reshape(rows * columns, *shape), columns=columns) / np.float32(255)


def _stops(done: int, config: config_lib.Config) -> Iterator[int]:
    """The steps at which the losses are logged: multiples of `log_every`, and the last step."""
    first = done // config.log_every + 1
    for stop in itertools.count(first * config.log_every, config.log_every):
        if stop >= config.steps:
            break
        yield stop
    if done < config.steps:
        yield config.steps


def _writers(config: config_lib.Config, workdir: pathlib.Path, done: int) -> writers.MultiWriter:
    return writers.MultiWriter(
        [
            writers.JsonlWriter(workdir / "metrics.jsonl", done),
            writers.TensorBoardWriter(workdir),
            writers.PreviewWriter(workdir / "previews"),
            # Last: nothing that fails after it can leave a progress bar on the terminal.
            writers.ConsoleWriter(config.steps),
        ]
    )
