"""What a module imports, read from its source."""

from harness.plan.import_sources import sources
from tests.harness.plan.repositories import write


def names(module, root):
    return {str(path.relative_to(root)) for path in sources(module, root)}


def test_sources_are_all_that_a_module_imports_where_it_runs(tmp_path):
    texts = {
        "a/__init__.py": "",
        "a/first.py": "from typing import TYPE_CHECKING\nfrom a import second\nimport torch\n"
        "if TYPE_CHECKING:\n    import a.typed\nelse:\n    import a.run\n"
        "def f():\n    from a.late import x\n",
        "a/second.py": "import a.third\nfrom a.first import f\n",  # a circle ends
        **dict.fromkeys(("a/third/__init__.py", "a/late.py", "a/typed.py", "a/run.py"), ""),
        "a/other.py": "",
    }
    write(tmp_path, texts)
    first = {"a/__init__.py", "a/first.py", "a/second.py", "a/third/__init__.py"}
    assert names("a.first", tmp_path) == first | {"a/late.py", "a/run.py"}
    assert sources("torch", tmp_path) == frozenset()


def test_dots_count_up_from_the_package(tmp_path):
    texts = {
        "top/__init__.py": "from . import here\n",
        "top/here.py": "from .inner import mine\n",
        "top/inner/__init__.py": "from .mine import x\nfrom .... import beyond\n",
        "top/inner/mine.py": "from ..ops import y\nfrom .. import more\n",
        "top/ops.py": "",
        "top/more.py": "",
        "beyond.py": "",
    }
    write(tmp_path, texts)
    assert names("top", tmp_path) == texts.keys() - {"beyond.py"}


def test_a_file_that_cannot_be_read_imports_nothing(tmp_path):
    write(tmp_path, {"a.py": "import b\ndef (\n", "b.py": ""})
    assert names("a", tmp_path) == {"a.py"}


def test_a_module_is_found_where_the_search_path_has_it(tmp_path, monkeypatch):
    write(
        tmp_path,
        {"src/found_by_path/__init__.py": "from . import part\n", "src/found_by_path/part.py": ""},
    )
    assert names("found_by_path", tmp_path) == set()
    monkeypatch.syspath_prepend(str(tmp_path / "src"))
    other = tmp_path / "src"
    assert names("found_by_path", other) == {"found_by_path/__init__.py", "found_by_path/part.py"}
