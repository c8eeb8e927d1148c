"""The README shows what is kept, and nothing else."""

import json
import pathlib
import re

import pytest

from train import readme_main
from zoo import pretrained
from zoo.errors import UserError

README = pathlib.Path(__file__).resolve().parent.parent / "README.md"


def test_the_readme_s_table_is_the_one_of_the_kept_cards():
    text = README.read_text()
    assert readme_main.with_results(text) == text, "run python -m train.readme_main"


def test_every_kept_preset_has_a_row_with_its_own_figures():
    rows = readme_main.results().splitlines()
    for name in pretrained.names():
        (row,) = [r for r in rows if r.startswith(f"| `{name}` |")]
        accuracy = pretrained.card(name)["metrics"].get("accuracy")
        assert accuracy is None or f"accuracy {accuracy:.2%}" in row


def test_benchmarks_stand_below_with_the_command_that_made_them(tmp_path, monkeypatch):
    results = tmp_path / "tests" / "bench" / "results"
    results.mkdir(parents=True)
    (results / "x.json").write_text(json.dumps({"summary": "1.23 x as fast", "command": "make x"}))
    monkeypatch.setattr(readme_main, "ROOT", tmp_path)
    assert readme_main.results().endswith("1.23 x as fast (`make x`)")


def test_a_readme_without_marks_is_one_clear_error():
    with pytest.raises(UserError, match="lost its marks"):
        readme_main.with_results("# Nothing here")


def test_links_of_the_readme_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text())
    assert links
    assert all((README.parent / link).exists() for link in links)
