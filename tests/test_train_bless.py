"""From an export to its blessing: the binary, a real server, and what it leaves in the export."""

import dataclasses
import json
import shutil

import pytest
import tiny
from binaries import run_main

import zoo
from serving import export as export_lib
from train import bless, data, evaluate
from zoo import blessing, model_card
from zoo.blessing import Blessing, Verdict
from zoo.errors import UserError

CONFIG = dataclasses.asdict(tiny.CONFIGS["cnn"])
CARD = {
    "name": "little",
    "family": "cnn",
    "model": CONFIG,
    "data": {"name": "digits", "licence": "BSD-3-Clause", "source": "scikit-learn", "test_images": 360},
    "config_hash": model_card.config_hash({"model": CONFIG}),
}
GATES = (
    "accuracy >= 0.01",
    "nll/* <= 99",
    "accuracy >= last - 0.005",
    "latency_p95_ms <= 60000",
    "size_mb <= 5",
)


def judge(export, *flags, gates=GATES):
    return run_main("train.evaluate_main", f"--export={export}", *(f"--gate={g}" for g in gates), *flags)


@pytest.fixture(scope="module")
def model():
    return zoo.build("cnn", tiny.CONFIGS["cnn"], seed=5)


@pytest.fixture(scope="module")
def judged(model, tmp_path_factory):
    """An export that was judged by the binary, and what that printed."""
    folder = tmp_path_factory.mktemp("candidates")
    export = export_lib.export(model, folder, "little", CARD, {"preview.txt": b"a look"})
    before = blessing.digest(export)
    with pytest.raises(UserError, match="was not judged yet"):
        blessing.check(export)
    done = judge(export, f"--output={folder / 'report.json'}")
    assert done.returncode == 0, done.stderr
    assert blessing.digest(export) == before
    return export, done.stdout


def test_an_export_that_passes_is_blessed_with_its_figures(judged, model):
    export, stdout = judged
    found = blessing.check(export)
    assert (found.model, found.compared_with) == ("little", "")
    # The same as the model's own in this process, and nothing but them, the latencies and the size.
    report = evaluate.evaluate(model, "cnn", data.load("digits"))
    expected = blessing.flat(report)
    latencies = {k: v for k, v in found.metrics.items() if k.startswith("latency_p95_ms")}
    assert set(found.metrics) == set(expected) | set(latencies) | {"size_mb"}
    for name, value in expected.items():
        assert found.metrics[name] == pytest.approx(value, abs=1e-5), name
    signatures = {f"latency_p95_ms/{name}" for name in model.signatures()}
    assert set(latencies) == signatures | {"latency_p95_ms"}
    assert latencies["latency_p95_ms"] == latencies["latency_p95_ms/classify"] > 0
    on_disk = sum(path.stat().st_size for path in blessing.files(export))
    assert found.metrics["size_mb"] == pytest.approx(on_disk / 1e6)
    written = json.loads((export.parent.parent / "report.json").read_text())
    assert written["metrics"] == pytest.approx(report["metrics"], abs=1e-5)
    assert stdout.count("\npass  ") == len(GATES) == len(found.verdicts)
    assert "no version was blessed yet" in stdout


def test_the_card_for_people_shows_data_figures_gates_samples_and_limits(judged, model):
    export, _ = judged
    shown = (export / "assets.extra" / "card.md").read_text()
    accuracy = blessing.check(export).metrics["accuracy"]
    for part in (
        *("# little", "| licence of the data | BSD-3-Clause |", CARD["config_hash"], model.limits),
        *(f"| accuracy | {accuracy:.6g} |", "| accuracy/3 |", "| passed | `size_mb <= 5` |", "preview.txt"),
        f"| exported by | {model_card.code_version()} |",
    ):
        assert part in shown
    assert (export / "assets.extra" / "preview.txt").read_bytes() == b"a look"


def test_a_worse_one_than_the_last_blessed_is_not_blessed_and_the_status_says_so(judged, tmp_path):
    export, _ = judged
    base = tmp_path / "base"
    blessed = blessing.read(export)
    # Versions 2 and 3 are served; 3 was pushed by force, 10 was never judged.
    for version, found in (
        (
            "2",
            dataclasses.replace(blessed, metrics={**blessed.metrics, "accuracy": 0.999}, digest="sha256:2"),
        ),
        ("3", dataclasses.replace(blessed, blessed=False, digest="sha256:3")),
    ):
        blessing.write(base / "little" / version, found)
    (base / "little" / "10").mkdir()
    candidate = tmp_path / "little" / "1"
    shutil.copytree(export, candidate)
    done = judge(candidate, f"--base_dir={base}")
    assert done.returncode == 3, done.stderr
    assert "FAIL  accuracy >= last - 0.005" in done.stdout and "NOT blessed" in done.stdout
    with pytest.raises(UserError, match=r"not blessed: accuracy = 0\.\d+ < 0\.994 \(last: 0\.999\)"):
        blessing.check(candidate)
    assert blessing.read(candidate).compared_with == "sha256:2"
    assert "**failed**" in (candidate / "assets.extra" / "card.md").read_text()


def test_an_export_that_was_changed_since_is_refused(judged, tmp_path):
    export, _ = judged
    changed = tmp_path / "little" / "1"
    shutil.copytree(export, changed)
    assert blessing.check(changed).blessed  # a copy is the same export
    weights = changed / "variables" / "variables.data-00000-of-00001"
    first, *rest = weights.read_bytes()
    weights.write_bytes(bytes([first ^ 1, *rest]))
    with pytest.raises(UserError, match="is not what was judged"):
        blessing.check(changed)


def test_a_gate_on_what_is_not_measured_leaves_the_old_judgement(judged, tmp_path):
    export, _ = judged
    before = (export / blessing.FILE).read_bytes()
    found = bless.Measured("sha256:0", {}, {"accuracy": 0.5})
    with pytest.raises(UserError, match="gate on 'fd_feat': no such metric; the metrics are accuracy"):
        bless.bless(export, found, bless.gates_of(CARD, ["fd_feat <= 3"]), None)
    assert (export / blessing.FILE).read_bytes() == before


def test_mistakes_are_told_before_anything_is_started(judged, tmp_path):
    export, _ = judged
    done = judge(export, gates=["accuracy > 0.5"])
    assert done.returncode == 2
    assert "gate 'accuracy > 0.5': expected <metric>" in done.stderr and "Traceback" not in done.stderr
    with pytest.raises(UserError, match="there are no gates: 'little' is no preset"):
        bless.gates_of(CARD, [])
    kept = bless.gates_of({"name": "cnn_digits"}, ["accuracy >= 0.5"])
    assert "accuracy >= 0.975" not in [g.text for g in kept]
    with pytest.raises(UserError, match="is no export"):
        blessing.digest(tmp_path)


def test_old_cards_and_markdown_of_classes_with_bars_are_shown():
    for name in zoo.names():
        card = zoo.pretrained.card(name)
        shown = model_card.markdown(card, blessing.flat(card))
        assert "| configuration | not recorded |" in shown or "config_hash" in card
        assert card["data"]["licence"].replace("|", "\\|") in shown
    verdict = Verdict("a/b|c >= 1", 2.0, 1.0, True, "a/b|c = 2 >= 1")
    assert "| passed | `a/b\\|c >= 1` | a/b\\|c = 2 >= 1 |" in model_card.markdown(
        CARD, {"a/b|c": 2.0}, [verdict]
    )


def test_equal_configurations_have_equal_hashes():
    assert model_card.config_hash({"a": 1, "b": (2,)}) == model_card.config_hash({"b": [2], "a": 1})
    assert model_card.config_hash({"a": 1}) != model_card.config_hash({"a": 2})
    expected = "sha256:015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    assert model_card.config_hash({"a": 1}) == expected


def test_the_newest_blessed_version_counts_by_number(tmp_path):
    def write(version, blessed):
        found = Blessing(blessed, "m", f"sha256:{version}", "2026-01-01", (), {})
        blessing.write(tmp_path / "m" / version, found)

    assert blessing.last_blessed(tmp_path / "nowhere" / "m") is None
    write("9", True)
    write("10", True)
    write("11", False)
    assert blessing.last_blessed(tmp_path / "m").digest == "sha256:10"
