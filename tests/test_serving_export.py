"""Exports keep the signature contract, in processes that have never seen the model or Keras."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf
import tiny
from binaries import ROOT, on_a_full_disk, run_main

import zoo
from serving import client as client_lib
from serving import errors, export, golden, launch, portable
from train import served
from zoo import files
from zoo import workdir as workdir_lib
from zoo.errors import UserError

CARD = {"name": "x", "family": "x", "model": {}}


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Family → (family, model, version directory)."""
    base, found = tmp_path_factory.mktemp("models"), {}
    for family, config in sorted(tiny.CONFIGS.items()):
        model = zoo.build(family, config, seed=3)
        found[family] = family, model, export.export(model, base, family, CARD)
    return found


@pytest.fixture(params=sorted(tiny.CONFIGS))
def exported(request, exports):
    return exports[request.param]


def test_an_export_carries_its_card_golden_requests_and_warm_up(exported):
    _, model, version = exported
    assert version.name == "1"
    extra = version / "assets.extra"
    card = json.loads((extra / "card.json").read_text())
    assert set(card["signatures"]) == set(model.signatures())
    assert card["limits"] == model.limits and len(model.limits) > 50
    assert model.limits in (extra / "card.md").read_text()
    assert set(portable.golden_requests(version)) == set(model.signatures())
    assert (extra / "tf_serving_warmup_requests").stat().st_size > 0


def test_the_first_signature_is_also_the_default(exported):
    _, model, version = exported
    first = next(iter(model.signatures()))
    inputs, expected = portable.golden_requests(version)[first]
    got = portable.session_runner(version)("serving_default", inputs)
    assert portable.compare(first, got, expected, 1e-5) == []


def test_the_weights_are_stored_once(exported):
    _, _, version = exported
    card = json.loads((version / "assets.extra" / "card.json").read_text())
    stored = (version / "variables" / "variables.data-00000-of-00001").stat().st_size
    assert card["weights_bytes"] <= stored <= card["weights_bytes"] * 1.02 + 4096


FRESH = """
import sys, pathlib, numpy as np
sys.modules["keras"] = None
from serving import portable
out = pathlib.Path(sys.argv[1])
for directory in map(pathlib.Path, sys.argv[2:]):
    runners = {"python": portable.python_runner(directory), "session": portable.session_runner(directory)}
    answers = {}
    for signature, (inputs, _) in portable.golden_requests(directory).items():
        for loader, run in runners.items():
            for rows in (1, 7, 64):
                pick = np.arange(rows) % len(next(iter(inputs.values())))
                for key, value in run(signature, {k: v[pick] for k, v in inputs.items()}).items():
                    if value.dtype.kind == "f":
                        answers[f"{signature} {loader} {rows} {key}"] = value
    np.savez(out / f"{directory.parent.name}.npz", **answers)
"""


@pytest.fixture(scope="module")
def elsewhere(exports, tmp_path_factory):
    """The folder of what each family's export answers in a process that has seen no model."""
    folder = tmp_path_factory.mktemp("answers")
    versions = [str(version) for _, _, version in exports.values()]
    subprocess.run(
        [sys.executable, "-c", FRESH, str(folder), *versions], check=True, cwd=ROOT, capture_output=True
    )
    return folder


def test_same_seed_same_answer_in_a_fresh_process_both_loaders_any_batch(exported, elsewhere):
    family, model, _ = exported
    requests = model.example_requests()
    signatures = model.signatures()
    wholes = {
        name: signatures[name](
            **{k: tf.constant(v.tolist() if v.dtype == object else v) for k, v in request.items()}
        )
        for name, request in requests.items()
    }
    with np.load(elsewhere / f"{family}.npz") as answers:
        assert len(answers.files) >= 6
        for name in answers.files:
            signature, loader, rows, key = name.split()
            whole = wholes[signature][key].numpy()
            pick = np.arange(int(rows)) % len(whole)
            np.testing.assert_allclose(answers[name], whole[pick], atol=1e-5, err_msg=name)
            other = name.replace(loader, "python" if loader == "session" else "session")
            assert np.array_equal(answers[name], answers[other]), name


# Family → a signature of it and the inputs that may be left out; only families that have some.
OPTIONAL = {"gan": ("sample", {"label", "truncation"}), "cnn": ("explain", {"class_id"})}


@pytest.mark.parametrize(
    ("exported", "signature", "names"),
    [(family, *row) for family, row in OPTIONAL.items()],
    indirect=["exported"],
)
def test_options_have_defaults_in_the_signature(exported, signature, names):
    _, _, version = exported
    meta = portable._saved_model(version).meta_graphs[0].signature_def[signature]
    assert set(meta.defaults) == names
    inputs, _ = portable.golden_requests(version)[signature]
    required = {k: v for k, v in inputs.items() if k not in names}
    answer = portable.session_runner(version)(signature, required)
    assert all(len(v) == len(next(iter(required.values()))) for v in answer.values())


@pytest.fixture(scope="module")
def client(exports):
    """Of a server of all the exports."""
    models = {family: version.parent for family, _, version in exports.values()}
    with launch.launch(models) as server, client_lib.Client.connect(server.address) as connected:
        yield connected


def test_a_served_export_answers_its_golden_requests_and_evaluation_s_calls(exported, client):
    family, model, version = exported
    card = {"family": family, "model": json.loads(json.dumps(dataclasses.asdict(model.config)))}
    for signature, (inputs, expected) in portable.golden_requests(version).items():
        got = client.predict(family, inputs, signature=signature)
        assert portable.compare(signature, got, expected, 1e-5) == []
    # As `train.evaluate` asks a model: functions of tensors, beside a configuration.
    judged = served.Export(golden.Export(family, 1, version), card, client)
    assert (judged.config, judged.learns) == (model.config, model.learns)
    signatures = judged.signatures()
    for signature, (inputs, expected) in portable.golden_requests(version).items():
        tensors = {k: tf.constant(v.tolist() if v.dtype == object else v) for k, v in inputs.items()}
        got = {k: v.numpy() for k, v in signatures[signature](**tensors).items()}
        assert portable.compare(signature, got, expected, 1e-5) == []
    with pytest.raises(UserError, match="the export has no signature 'paint'"):
        signatures["paint"]


# Family → a signature of it, inputs that only the graph can refuse, and the op's own words.
REFUSED = {
    "cnn": ("classify_bytes", {"image_bytes": [b"no picture"]}, "Unknown image file format"),
    "gan": ("sample", {"seed": [0, 1], "label": [3, 10]}, "a label is outside the range"),
}


@pytest.mark.parametrize(
    ("exported", "signature", "inputs", "words"),
    [(family, *row) for family, row in REFUSED.items()],
    indirect=["exported"],
)
def test_values_that_the_graph_refuses_are_the_client_s_error_and_the_server_goes_on(
    exported, client, signature, inputs, words
):
    family, _, version = exported
    good, expected = portable.golden_requests(version)[signature]
    with pytest.raises(errors.InvalidInput, match=words):
        client.predict(family, inputs, signature=signature)
    got = client.predict(family, good, signature=signature)
    assert portable.compare(signature, got, expected, 1e-5) == []


def test_weights_that_are_stored_twice_are_found(tmp_path):
    kernel = tf.random.stateless_normal([4, 3], [0, 0])
    module = tf.Module()
    module.one, module.other = tf.Variable(kernel), tf.Variable(kernel + 1)
    module.bias, module.second_bias = tf.Variable(tf.zeros(3)), tf.Variable(tf.zeros(3))
    tf.saved_model.save(module, str(tmp_path / "once"))
    assert portable.duplicate_weights(tmp_path / "once") == []
    module.copy = tf.Variable(kernel)
    tf.saved_model.save(module, str(tmp_path / "twice"))
    (fault,) = portable.duplicate_weights(tmp_path / "twice")
    assert "one/" in fault and "copy/" in fault


def test_only_old_remains_of_a_killed_export_are_removed(tmp_path):
    old, running = (tmp_path / "gan" / f".incoming-{name}" for name in ("old", "running"))
    for folder in (old, running):
        folder.mkdir(parents=True)
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (two_days_ago, two_days_ago))
    export.export(zoo.build("gan", tiny.CONFIGS["gan"]), tmp_path, "gan", CARD)
    assert sorted(os.listdir(tmp_path / "gan")) == [".incoming-running", "1"]


# The binary of a checkout that is on nobody's path but this process's, and nowhere near its folder.
ELSEWHERE = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from serving import export_main
export_main.run()
"""


@pytest.mark.parametrize("exported", ["gan"], indirect=True)
def test_a_checkout_exports_from_any_folder_and_a_full_disk_is_one_line(exported, tmp_path):
    family, model, _ = exported
    workdir, base = _workdir(tmp_path, family, model), tmp_path / "models"

    command = [sys.executable, "-c", ELSEWHERE, str(ROOT), f"--workdir={workdir}", f"--base_dir={base}"]

    def run(command):
        return subprocess.run(
            command,
            cwd=tmp_path,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            capture_output=True,
            text=True,
        )

    # Larger than the copy of its own source that autograph writes while a signature is traced.
    full = run(on_a_full_disk(20_000, command))
    assert full.returncode == 2
    assert _complaints(full.stderr) == 1 and "Traceback" not in full.stderr
    assert f"cannot write the export to {base / 'run'} (" in full.stderr
    assert os.listdir(base / "run") == []
    done = run(command)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{base / 'run' / '1'}\n"


@pytest.mark.parametrize("text", ['{"name": "ru', "\udcff", "[]", '{"family": "gan"}'])
def test_a_damaged_card_names_its_file(tmp_path, text):
    path = tmp_path / "card.json"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(UserError, match="is no model card") as raised:
        workdir_lib.read_card(path)
    assert str(raised.value).startswith(str(path)) and "\n" not in str(raised.value)


@pytest.fixture
def synced(monkeypatch):
    """Everything that was flushed to the disk, in order: (device, inode)."""
    found, fsync = [], os.fsync

    def record(handle):
        found.append(_identity(os.stat(handle)))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", record)
    return found


def _identity(status):
    return status.st_dev, status.st_ino


def test_an_export_is_on_the_disk_before_its_name_is(synced, tmp_path):
    version = export.export(zoo.build("cnn", tiny.CONFIGS["cnn"]), tmp_path, "cnn", CARD)
    *before, last = synced
    written = {_identity(path.stat()) for path in [version, *version.rglob("*")]}
    assert written <= set(before)
    assert last == _identity(version.parent.stat())


def test_a_file_is_on_the_disk_before_its_name_is(synced, tmp_path):
    files.atomic_write(tmp_path / "new" / "file", b"data")
    assert synced == [_identity((tmp_path / "new" / name).stat()) for name in ("file", "")]


def _workdir(folder, family, model):
    """What a training run of the model leaves."""
    workdir = folder / "run"
    workdir.mkdir()
    config = {"name": "run", "family": family, "model": dataclasses.asdict(model.config)}
    (workdir / "config.json").write_text(json.dumps(config))
    step = tf.Variable(1, dtype=tf.int64)
    seconds = tf.Variable(0.0, dtype=tf.float64)
    checkpoint = tf.train.Checkpoint(model=model, step=step, seconds=seconds)
    tf.train.CheckpointManager(checkpoint, str(workdir / "checkpoints"), 1).save()
    return workdir


def _complaints(text):
    return sum(line.startswith("error: ") for line in text.splitlines())


def test_versions_only_grow(tmp_path):
    model = zoo.build("gan", tiny.CONFIGS["gan"])
    (tmp_path / "gan" / "41").mkdir(parents=True)
    assert export.export(model, tmp_path, "gan", CARD).name == "42"
    assert sorted(os.listdir(tmp_path / "gan")) == ["41", "42"]


class NeedsPython(zoo.family("gan").Model):
    """A model that works here and nowhere else: its signature calls back into this process."""

    def signatures(self):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "seed")])
        def sample(seed):
            image = tf.py_function(lambda s: tf.cast(s, tf.float32), [seed], tf.float32)
            return {"image": tf.ensure_shape(image, [None])}

        return {"sample": sample}

    def example_requests(self):
        return {"sample": {"seed": np.arange(2, dtype=np.int64)}}


class MixesRows(NeedsPython):
    """A model whose rows see each other."""

    def signatures(self):
        @tf.function(input_signature=[tf.TensorSpec([None], tf.int64, "seed")])
        def sample(seed):
            return {"image": tf.cast(seed - tf.reduce_min(seed), tf.float32)}

        return {"sample": sample}


@pytest.mark.parametrize(
    ("broken", "reason"), [(NeedsPython, "needs Python"), (MixesRows, "row 1 alone")]
)
def test_an_export_that_breaks_the_contract_is_not_published(broken, reason, tmp_path):
    with pytest.raises(UserError, match=reason):
        export.export(broken(tiny.CONFIGS["gan"]), tmp_path, "gan", CARD)
    assert os.listdir(tmp_path / "gan") == []


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--pretrained=gan_fashon"], "no pretrained weights named 'gan_fashon'"),
        (["--workdir=/nowhere"], "/nowhere is no training work directory"),
        ([], "exactly one of --pretrained=<preset>, --workdir=<dir> and --gatys"),
    ],
)
def test_a_mistake_is_one_line(flags, expected, tmp_path):
    done = run_main("serving.export_main", *flags, f"--base_dir={tmp_path}")
    assert done.returncode == 2
    assert _complaints(done.stderr) == 1 and "Traceback" not in done.stderr
    assert expected in done.stderr
    assert os.listdir(tmp_path) == []
