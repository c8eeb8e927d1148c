"""Digests change with what they are about, and with nothing else."""

import os
import shutil

from train import fingerprint


def _package(root, monkeypatch, **sources):
    for name, text in sources.items():
        path = root / "train" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(fingerprint, "_ROOT", root)
    fingerprint._read.cache_clear()


def test_code_is_what_a_module_does_and_what_it_imports(tmp_path, monkeypatch):
    sources = {
        "a": '"""One."""\nfrom train import b\n',
        "b": "def f():\n    import train.c\n    return 1\n",
        "c": "x = 1\n",
        "other": "y = 1\n",
    }

    def digest(**changes):
        _package(tmp_path, monkeypatch, **(sources | changes))
        return fingerprint.code("train.a")

    first = digest()
    assert digest(a='"""Two."""\n# Why.\nfrom train import (\n    b,\n)\n') == first
    assert digest(other="y = 2\n") == first
    assert digest(b="def f():\n    import train.c\n    return 2\n") != first
    assert digest(c="x = 2\n") != first  # imported inside of a function of what is imported


def test_files_are_their_names_and_contents_wherever_they_lie(tmp_path):
    data = tmp_path / "data"
    (data / "cat").mkdir(parents=True)
    (data / "cat" / "1.png").write_bytes(b"one")
    (data / ".hidden").write_bytes(b"")
    files = fingerprint.Files(tmp_path / "memory.json")
    first = files.digest([data])
    shutil.copytree(data, tmp_path / "copy")
    (tmp_path / "copy" / ".other").touch()
    assert files.digest([tmp_path / "copy"]) == first
    (data / "cat" / "2.png").write_bytes(b"two")
    second = files.digest([data])
    (data / "cat" / "2.png").rename(data / "cat" / "3.png")
    third = files.digest([data])
    (data / "cat" / "3.png").unlink()
    assert len({first, second, third}) == 3
    assert files.digest([data]) == first
    assert files.digest([tmp_path / "missing"]) == files.digest([tmp_path / "also missing"]) != first


def test_a_file_is_read_once_and_again_when_it_has_changed(tmp_path):
    path, memory = tmp_path / "data", tmp_path / "memory.json"
    path.write_bytes(b"one")
    first = fingerprint.Files(memory).digest([path])
    path.chmod(0)  # a second look does not open it
    changed = path.stat()
    path.chmod(0o600)
    assert fingerprint.Files(memory).digest([path]) == first
    # The same size, and a tool that sets back the time of modification.
    path.write_bytes(b"two")
    os.utime(path, ns=(changed.st_atime_ns, changed.st_mtime_ns))
    second = fingerprint.Files(memory).digest([path])
    memory.write_text("{")
    assert fingerprint.Files(memory).digest([path]) == second != first


def test_a_link_back_ends(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "1").write_bytes(b"one")
    (tmp_path / "data" / "again").symlink_to(tmp_path / "data")
    files = fingerprint.Files(tmp_path / "memory.json")
    assert files.digest([tmp_path / "data"]) != files.digest([tmp_path / "missing"])
