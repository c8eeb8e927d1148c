"""A strategy never changes what is learnt: one device against two replicas."""

import pytest
import tensorflow as tf
import tiny
from binaries import losses

from train import loop, strategy
from zoo import workdir as workdir_lib
from zoo.errors import UserError


@pytest.mark.parametrize("family", sorted(tiny.CONFIGS))
def test_two_replicas_learn_what_one_device_learns_and_one_device_goes_on_from_there(
    family, tmp_path, mirrored
):
    learnt = tiny.DATA[family]()
    assert mirrored.num_replicas_in_sync == 2
    loop.train(tiny.config(family), tmp_path / "one", learnt, strategy.make("one_device"))
    loop.train(tiny.config(family), tmp_path / "two", learnt, mirrored)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 22  # twenty steps, two evaluations
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, abs=1e-4)

    # The run is cut where its checkpoint of step 10 stands.
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
