"""Which members a changed table feeds: rows of this project's own tables, before and after."""

import shutil

import pytest

from harness.plan import changed_rows
from harness.plan.changed_members import ROOT
from harness.plan.changed_rows import compared
from harness.plan.git_diff import difference
from tests.harness.plan.repositories import repository, write

EXPERTS, QUANT = "moe/experts/__init__.py", "moe/quant/__init__.py"
TRITON = "moe/routers/triton/spec.py"
CHANGES = {
    EXPERTS: ("hidden_multiple=8,", "hidden_multiple=16,"),
    QUANT: ('"int8_block:Int8Block"', '"int8_block:MyBlock"'),
    TRITON: ('"""', '"""Also: '),
    "moe/layers/layer_row.py": ("def __post_init__", "def __post_init_2__"),  # of a class
}


@pytest.fixture(scope="module")
def changed(tmp_path_factory):
    """A tree in which these files differ from this project's."""
    tree = tmp_path_factory.mktemp("tree").resolve()
    shutil.copytree(ROOT / "moe", tree / "moe", ignore=shutil.ignore_patterns("__pycache__"))
    for name, (old, new) in CHANGES.items():
        text = (tree / name).read_text()
        assert old in text
        (tree / name).write_text(text.replace(old, new, 1))
    return tree


def test_the_members_with_another_row_are_those_that_changed(changed):
    rows = {("experts", "torch_grouped"), ("quant", "int8_block")}
    files = {name: name for name in CHANGES}
    assert compared(files, ROOT, changed) == {EXPERTS: rows, QUANT: rows, TRITON: frozenset()}


def test_more_than_rows_or_tables_that_do_not_load_tell_nothing(changed, tmp_path):
    old = {"others": 1, "rows": {"platform": {"x": 1}, "experts": {"a": 1, "b": 1}}}

    def new(**changes):
        return {**old, "rows": {**old["rows"], **changes}}

    assert changed_rows._differing(old, new(experts={"a": 1, "c": 1, "b": 2})) == {
        ("experts", "b"),
        ("experts", "c"),
    }
    assert changed_rows._differing(old, new(experts={"b": 1, "a": 1})) is None  # preference
    assert changed_rows._differing(old, new(platform={"x": 2})) is None
    assert changed_rows._differing(old, {**old, "others": 2}) is None
    write(tmp_path, {"moe/__init__.py": "", EXPERTS: "A = 1"})
    assert compared({EXPERTS: EXPERTS}, tmp_path, changed) == {}


def test_a_commit_s_tables_are_compared_with_those_of_the_working_tree(tmp_path, monkeypatch):
    texts = {"part/moe/a.py": "A = 1", "part/moe/b.py": "B = 1", "part/c.py": "", "moe/d.py": ""}
    root = repository(tmp_path, texts)
    write(
        root, {"part/moe/a.py": "A = 2", "part/moe/new.py": "", "part/c.py": "C", "moe/d.py": "D"}
    )
    seen = {}

    def read(files, before, after):
        seen.update(files=files, after=after)
        seen["before"] = {p.name: p.read_text() for p in before.rglob("*") if p.is_file()}
        return {}

    monkeypatch.setattr(changed_rows, "ROOT", root / "part")
    monkeypatch.setattr(changed_rows, "compared", read)
    assert changed_rows.changed_rows(difference("HEAD", root)) == {}
    assert seen == {
        "files": {"part/moe/a.py": "moe/a.py", "part/moe/new.py": "moe/new.py"},
        "before": {"a.py": "A = 1", "b.py": "B = 1"},
        "after": root / "part",
    }
