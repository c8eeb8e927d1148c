"""A strategy never changes what is learnt: one device against two replicas."""

import dataclasses

import pytest
import tensorflow as tf
import tiny
from binaries import losses

from train import config as config_lib
from train import loop, strategy
from train.data.images import Images
from zoo import workdir as workdir_lib
from zoo.errors import UserError


@pytest.mark.parametrize("family", sorted(tiny.CONFIGS))
def test_two_replicas_learn_what_one_device_learns_and_one_goes_on_from_there(family, tmp_path, mirrored):
    learnt = tiny.DATA[family]()
    assert mirrored.num_replicas_in_sync == 2
    loop.train(tiny.config(family), tmp_path / "one", learnt, strategy.make("one_device"))
    loop.train(tiny.config(family), tmp_path / "two", learnt, mirrored)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 22  # twenty steps, two evaluations
    # The rounding of a gathered batch is another one.
    near = 5e-4 if family == "arbitrary_stylizer" else 1e-4
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, abs=near)

    # The run is cut where its checkpoint of step 10 stands. What is in a checkpoint of every other family:
    # test_zoo_conformance.
    if family not in ("gan", "rnn"):
        return
    for path in (tmp_path / "two" / "checkpoints").glob("ckpt-20.*"):
        path.unlink()
    loop.train(tiny.config(family), tmp_path / "two", learnt, strategy.make("one_device"))
    for a, b in zip(one, losses(tmp_path / "two"), strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_what_was_trained_is_what_is_loaded(tmp_path):
    learnt = tiny.digits()
    made = loop.train(tiny.config("gan"), tmp_path, learnt, strategy.make("one_device"))
    trained = workdir_lib.load(tmp_path)
    assert trained.step == 20
    assert (made.config, made.step, made.seconds) == (trained.config, trained.step, trained.seconds)
    seed = tf.range(5, dtype=tf.int64)
    got = trained.model.signatures()["sample"](seed=seed)["image"]
    tf.debugging.assert_equal(got, made.model.signatures()["sample"](seed=seed)["image"])


def test_a_folder_without_a_run_is_one_clear_error(tmp_path):
    with pytest.raises(UserError, match=r"no config\.json"):
        workdir_lib.load(tmp_path)


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """The work directory of a classifier in float32, as TensorFlow runs it."""
    workdir = tmp_path_factory.mktemp("exact")
    loop.train(tiny.config("cnn"), workdir, tiny.digits(), strategy.make("one_device"))
    return workdir


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_learns_the_same_in_float32_weights_and_goes_on(precision, exact, tmp_path):
    learnt, one_device = tiny.digits(), strategy.make("one_device")
    config = tiny.config("cnn", mixed_precision=config_lib.Precision(precision))
    mixed = loop.train(config, tmp_path, learnt, one_device)
    assert {w.dtype for w in mixed.model.trainable_variables} == {"float32"}
    whole = losses(tmp_path)
    assert whole != losses(exact)  # another arithmetic
    for a, b in zip(losses(exact), whole, strict=True):
        assert b == pytest.approx(a, abs=0.1)

    # From the checkpoint of step 10, with the scale of the loss.
    for path in (tmp_path / "checkpoints").glob("ckpt-20.*"):
        path.unlink()
    loop.train(config, tmp_path, learnt, one_device)
    assert losses(tmp_path) == whole

    # What is trained in it is served in float32.
    image = tf.constant(learnt.examples()[0][:3])
    served = workdir_lib.load(tmp_path).model
    assert served.trunk.compute_dtype == "float32"
    assert served.signatures()["classify"](image=image)["probabilities"].dtype == tf.float32


def test_xla_compiles_the_step_and_learns_the_same(exact, tmp_path):
    loop.train(tiny.config("cnn", xla=True), tmp_path, tiny.digits(), strategy.make("one_device"))
    for a, b in zip(losses(exact), losses(tmp_path), strict=True):
        assert a == pytest.approx(b, abs=1e-4)


def test_the_best_checkpoint_on_held_out_data_stays_beside_the_newest(tmp_path):
    # The held-out labels are wrong: the better it learns, the worse they are met.
    digits = tiny.digits()
    wrong = Images(digits.test.images, (digits.test.labels + 1) % 10)
    optimizer = config_lib.Optimizer(learning_rate=5e-3)
    config = tiny.config("cnn", keep_best="loss", eval_every=4, optimizer=optimizer)
    loop.train(config, tmp_path, dataclasses.replace(digits, test=wrong), strategy.make("one_device"))
    held_out = {row["step"]: row["eval/loss"] for row in losses(tmp_path) if "eval/loss" in row}
    lowest = min(held_out, key=lambda step: held_out[step])
    assert lowest < 20
    assert workdir_lib.load(tmp_path, best=True).step == lowest
    assert workdir_lib.load(tmp_path).step == 20


def test_a_profile_of_two_steps_is_where_tensorboard_looks_for_it(tmp_path):
    profile = (5, 7)
    loop.train(tiny.config("cnn"), tmp_path, tiny.digits(), strategy.make("one_device"), profile=profile)
    (written,) = tmp_path.glob("plugins/profile/*/*.xplane.pb")
    assert b"run_steps" in written.read_bytes()
