"""Every data set says which files it reads: the line would miss a change of any other."""

from train import data
from train.data import sources


def test_every_named_set_but_digits_names_files_that_are_there(shared_data):
    found = {name: sources.paths(name, shared_data) for name in data.SETS}
    assert found.pop("digits") == ()
    for name, paths in found.items():
        assert paths and all(path.exists() for path in paths), name
    assert len(found["mnist"]) == len(found["fashion_mnist"]) == 4


def test_files_of_a_kind_are_the_path_given(tmp_path):
    for kind in ("folder", "midi", "text"):
        assert sources.paths(f"{kind}:{tmp_path}", None) == (tmp_path,)
