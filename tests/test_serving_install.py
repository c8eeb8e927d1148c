"""What `pip install .` brings: the client and its tools, small, in an environment of its own."""

from __future__ import annotations

import email
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import setuptools

pytest_plugins = ["saved_models", "art_models"]

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = {"atelier-client", "atelier-bench", "atelier-doctor", "atelier-serve"}
MOST_BYTES = 1_000_000  # installed, compiled modules included

pytestmark = pytest.mark.skipif(
    int(setuptools.__version__.partition(".")[0]) < 77,
    reason="needs setuptools 77 in this environment, to build without the package index",
)


def _pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> dict[str, Path]:
    """The two distributions of this checkout, as pip builds them."""
    folder = tmp_path_factory.mktemp("wheels")
    for project in (ROOT, ROOT / "zoo"):
        _pip("wheel", "--no-deps", "--no-build-isolation", f"--wheel-dir={folder}", project)
    return {path.name.partition("-")[0]: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def alone(wheels, base_install, tmp_path_factory) -> Path:
    """A fresh environment with the wheel of `atelier`, and of other packages only those that it asks for."""
    folder = tmp_path_factory.mktemp("alone")
    venv.create(folder, with_pip=False)
    packages = base_install[1]["PYTHONPATH"].partition(os.pathsep)[0]
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "base.pth").write_text(packages)
    _pip("--python", folder / "bin" / "python", "install", "--no-deps", "--no-index", wheels["atelier"])
    return folder


def _run(folder: Path, *command: object) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    program, *arguments = map(str, command)
    return subprocess.run(
        [str(folder / "bin" / program), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def _modules(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if name.endswith(".py")}


def _metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_the_wheels_divide_the_checkout_s_modules(wheels):
    client, zoo = _modules(wheels["atelier"]), _modules(wheels["atelier_zoo"])
    assert not client & zoo
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("the list of modules is git's")
    ours = {name for name in listed.stdout.split() if name.startswith(("serving/", "train/", "zoo/"))}
    assert client | zoo == {name for name in ours if (ROOT / name).exists()} - {"zoo/setup.py"}
    assert {name.partition("/")[0] for name in client} == {"serving"}


def test_weights_and_judges_are_in_the_second_one(wheels):
    with zipfile.ZipFile(wheels["atelier_zoo"]) as archive:
        packed = set(archive.namelist())
    kept = {str(p.relative_to(ROOT)) for p in (ROOT / "zoo" / "weights").glob("*/weights.npz")}
    assert kept and kept <= packed
    assert any(name.startswith("train/metrics/judges/") for name in packed)
    with zipfile.ZipFile(wheels["atelier"]) as archive:
        suffixes = {Path(name).suffix for name in archive.namelist() if ".dist-info/" not in name}
    assert suffixes == {".py", ".pyi"}  # nothing compiled, no data


def test_extras_bring_the_second_one_by_its_path_and_the_base_nothing_heavy(wheels):
    required = _metadata(wheels["atelier"]).get_all("Requires-Dist")
    base = {line.partition(">")[0].partition("<")[0] for line in required if "extra ==" not in line}
    assert base == {"absl-py", "grpcio", "numpy", "protobuf"}
    for extra in ("train", "serve", "all"):
        (line,) = (x for x in required if x.startswith("atelier-zoo") and f'extra == "{extra}"' in x)
        assert line.startswith(f"atelier-zoo @ {(ROOT / 'zoo').as_uri()}")
    assert _metadata(wheels["atelier_zoo"]).get_all("Requires-Dist") == ["atelier==0.1.0"]


def test_it_is_small_and_complete(alone, wheels):
    (site,) = alone.glob("lib/python*/site-packages")
    installed = [*site.glob("atelier-*"), site / "serving", *(alone / "bin").glob("atelier-*")]
    files = [path for top in installed for path in [top, *top.rglob("*")] if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    assert any(path.suffix == ".pyc" for path in files)
    assert 100_000 < size <= MOST_BYTES
    assert {path.name for path in (alone / "bin").glob("atelier-*")} == SCRIPTS
    names = sorted(n.removesuffix(".py").replace("/", ".") for n in _modules(wheels["atelier"]))
    code = "import importlib, sys\n" + "".join(f"importlib.import_module({name!r})\n" for name in names)
    heavy = "{'tensorflow', 'keras', 'PIL', 'zoo', 'train'} & {n.partition('.')[0] for n in sys.modules}"
    done = _run(alone, "python", "-c", f"{code}print({heavy})")
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_its_commands_work(alone, art_server, art_base):
    server = f"--server={art_server.address}"
    sampled = _run(alone, "atelier-client", "sample", "art", server)
    assert (sampled.returncode, sampled.stdout, sampled.stderr) == (0, "art.png\n", "")
    checked = _run(alone, "atelier-doctor", art_server.address, art_base)
    assert checked.returncode == 0, checked.stderr
    loaded = _run(alone, "atelier-bench", "art", server, "--warmup=0", "--window=0.1", "--tolerance=10")
    assert (loaded.returncode, loaded.stderr) == (0, "")
    refused = _run(alone, "atelier-serve", "--port=0")
    assert refused.returncode == 1
    assert refused.stderr == "error: the server needs TensorFlow: pip install 'atelier[serve]'\n"


def test_an_editable_install_is_the_checkout_with_every_command(tmp_path):
    venv.create(tmp_path, with_pip=False)
    (site,) = tmp_path.glob("lib/python*/site-packages")
    for name in ("setuptools", f"setuptools-{setuptools.__version__}.dist-info", "_distutils_hack"):
        (site / name).symlink_to(Path(setuptools.__file__).parent.parent / name)  # what builds it
    arguments = ("install", "--no-deps", "--no-index", "--no-build-isolation", "--editable", ROOT)
    _pip("--python", tmp_path / "bin" / "python", *arguments)
    code = "import serving, train, zoo, importlib.metadata as m\n"
    code += "print(zoo.__file__, serving.__file__, 'atelier-zoo' in str(m.requires('atelier')))"
    done = _run(tmp_path, "python", "-c", code)
    expected = [f"{ROOT}/zoo/__init__.py", f"{ROOT}/serving/__init__.py", "False"]
    assert done.stdout.split() == expected, done.stderr
    scripts = {path.name for path in (tmp_path / "bin").glob("atelier-*")}
    more = ("train", "export", "evaluate", "deploy", "push")
    assert scripts >= SCRIPTS | {f"atelier-{name}" for name in more}
