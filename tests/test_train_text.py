"""Texts as data sets: splits, windows that are functions of (seed, step, row), and mistakes in files."""

import itertools

import numpy as np
import pytest
import tiny

from train import data
from train.data import text
from train.data.dataset import Shard
from zoo.errors import UserError

LETTERS = "".join(map(chr, range(ord("a"), ord("a") + 26)))


def counting(n=1000):
    """A text in which a symbol tells its place: each is the one after the symbol before it."""
    return text.TextData("counting", LETTERS * (n // 26), LETTERS * 10, "", "")


def batches(learnt, count, **options):
    settings = tiny.settings(batch_size=options.pop("batch_size", 4), length=options.pop("length", 10))
    found = learnt.train_batches(settings, **{"seed": 0, **options})
    return [(x.numpy(), y.numpy()) for x, y in itertools.islice(found, count)]


def test_a_window_is_followed_by_the_next_symbols():
    for x, y in batches(counting(), 5):
        assert x.shape == y.shape == (4, 10)
        assert x.dtype == y.dtype == np.int32
        assert np.array_equal(x[:, 1:], y[:, :-1])
        # Symbol 0 is the line feed, 1 to 26 are the letters.
        assert np.array_equal(y, x % 26 + 1)


def test_an_epoch_cuts_the_text_into_windows_that_do_not_overlap_and_begins_elsewhere_each_time():
    places = text.TextData("places", "".join(map(chr, range(0x4E00, 0x4E00 + 500))), "x" * 100, "", "")
    steps = (499 // 10 - 1) // 4  # of an epoch
    begins = []
    for epoch in range(4):
        x = np.concatenate([x for x, _ in batches(places, steps, start_step=epoch * steps)])
        assert len(np.unique(x)) == x.size
        begins.append(int(x[:, 0].min()) % 10)
        assert (x[:, 0] % 10 == begins[-1]).all()
    assert len(set(begins)) > 1


def test_batches_are_functions_of_seed_and_step():
    whole = batches(counting(), 60)  # more than two epochs
    for start in (0, 1, 23, 24, 25, 50):
        rest = batches(counting(), 60 - start, start_step=start)
        for (x, y), (x_again, y_again) in zip(whole[start:], rest, strict=True):
            assert np.array_equal(x, x_again) and np.array_equal(y, y_again)
    other = batches(counting(), 60, seed=1)
    assert any(not np.array_equal(a, b) for (a, _), (b, _) in zip(whole, other, strict=True))


def test_replicas_share_the_global_batch():
    whole = batches(counting(), 6)
    first = batches(counting(), 6, shard=Shard(2, 0, 1))
    second = batches(counting(), 6, shard=Shard(2, 1, 1))
    both = batches(counting(), 12, shard=Shard(2, 0, 2))
    for i, (x, _) in enumerate(whole):
        assert np.array_equal(np.concatenate([first[i][0], second[i][0]]), x)
        assert np.array_equal(np.concatenate([both[2 * i][0], both[2 * i + 1][0]]), x)


def test_evaluation_reads_the_held_out_text_once_in_order():
    held_out = LETTERS * 200  # 5,200 symbols: two rows of 2,048
    learnt = text.TextData("long", LETTERS * 10, held_out, "", "")
    ((x, y),) = [(x.numpy(), y.numpy()) for x, y in learnt.eval_batches(tiny.settings(), 500)]
    assert x.shape == (2, 2048)
    assert np.array_equal(x.ravel(), learnt.ids(held_out)[: x.size])
    assert np.array_equal(y.ravel(), learnt.ids(held_out)[1 : x.size + 1])


def test_the_alphabet_is_sorted_has_the_line_feed_and_numbers_the_symbols(tmp_path):
    path = tmp_path / "songs.txt"
    path.write_text("é白a" * 400, encoding="utf-8")
    learnt = data.load(f"text:{path}")
    assert learnt.for_model == {"alphabet": "\naé白"}
    assert learnt.ids("白\né").tolist() == [3, 0, 2]
    assert learnt.sizes == {"train_symbols": 1080, "test_symbols": 120}
    assert (learnt.kind, learnt.unit) == ("text", "windows")


def test_a_byte_order_mark_is_no_symbol(tmp_path):
    path = tmp_path / "notepad.txt"
    path.write_text("abc\n" * 300, encoding="utf-8-sig")
    assert data.load(f"text:{path}").for_model == {"alphabet": "\nabc"}


@pytest.mark.parametrize(
    "content, message",
    [
        (b"caf\xe9" * 500, "is no UTF-8"),
        (b"", "is empty"),
        (b" \n \n", "is empty"),
        (b"too short", "has 8 symbols to train on and 1 held out; at least 100"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path, content, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        data.load(f"text:{path}")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_missing_data_dir_are_clear_errors(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.txt"):
        data.load(f"text:{tmp_path}/nowhere.txt")
    with pytest.raises(UserError, match="tinyshakespeare"):
        data.load("tinyshakespeare", data_dir=tmp_path)
    for name in ("tinyshakespeare", "tang"):
        with pytest.raises(UserError, match="--data_dir"):
            data.load(name)


def test_windows_longer_than_the_text_and_batches_larger_than_an_epoch_are_clear_errors():
    with pytest.raises(UserError, match=r"config\.data\.length=600"):
        counting().train_batches(tiny.settings(length=600), seed=0)
    with pytest.raises(UserError, match="fewer than one batch of 500"):
        counting().train_batches(tiny.settings(length=10, batch_size=500), seed=0)


def test_tinyshakespeare_has_the_split_that_others_report_on(shared_data):
    learnt = data.load("tinyshakespeare", data_dir=shared_data)
    assert learnt.sizes == {"train_symbols": 1_003_854, "test_symbols": 111_540}
    assert len(learnt.for_model["alphabet"]) == 65


def test_tang_holds_out_whole_poems_and_the_split_does_not_depend_on_their_order(shared_data, tmp_path):
    learnt = data.load("tang", data_dir=shared_data)
    train, test = (split.splitlines() for split in (learnt.train, learnt.test))
    assert len(train) + len(test) == 13_987
    assert abs(len(test) / 13_987 - 0.1) < 0.01
    assert not set(train) & set(test)
    file = "poetry_zh/tang_quatrains.txt"
    (tmp_path / file).parent.mkdir()
    lines = (shared_data / file).read_text(encoding="utf-8").splitlines()
    (tmp_path / file).write_text("\n".join(reversed(lines)), encoding="utf-8")
    again = data.load("tang", data_dir=tmp_path)
    assert again.test.splitlines() == test[::-1]


def test_a_line_of_another_form_in_the_poems_is_named(tmp_path):
    (tmp_path / "poetry_zh").mkdir()
    (tmp_path / "poetry_zh" / "tang_quatrains.txt").write_text("a\tb\tc\nno tabs\n")
    with pytest.raises(UserError, match="line 2"):
        data.load("tang", data_dir=tmp_path)
