"""The hash of the sources changes with any of them, and with nothing else."""

from harness.engine import source_hash as module
from harness.engine.source_hash import source_hash


def test_it_changes_with_names_and_contents_of_python_files_only(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_ROOT", tmp_path)
    (tmp_path / "moe/part").mkdir(parents=True)
    seen = [source_hash()]
    for name, text in (("a.py", "x"), ("part/a.py", "x"), ("a.py", "y"), ("part/b.py", "")):
        (tmp_path / "moe" / name).write_text(text)
        seen.append(source_hash())
    assert len(set(seen)) == 5
    (tmp_path / "moe/a.txt").write_text("x")
    (tmp_path / "other.py").write_text("x")
    assert source_hash() == seen[-1]
