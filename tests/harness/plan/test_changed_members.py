"""Which members' code has changed: by imports that are read, and by a real repository."""

import subprocess

import pytest

from harness.plan.changed_members import ROOT, changed, changed_files, members, sources
from tests.harness.plan.points import case


def git(root, *arguments):
    identity = ["-c", "user.name=x", "-c", "user.email=x@host", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path):
    texts = {
        "a/__init__.py": "",
        "a/first.py": "from typing import TYPE_CHECKING\nfrom a import second\nimport torch\n"
        "if TYPE_CHECKING:\n    import a.typed\ndef f():\n    from a.late import x\n",
        "a/second.py": "import a.third\nfrom a.first import f\n",  # a circle ends
        "a/third/__init__.py": "",
        "a/late.py": "",
        "a/typed.py": "",
        "a/other.py": "",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_sources_are_all_that_a_module_imports_where_it_runs(tree):
    files = {str(path.relative_to(tree)) for path in sources("a.first", tree)}
    assert files == {
        *("a/__init__.py", "a/first.py", "a/second.py", "a/third/__init__.py", "a/late.py"),
    }
    assert sources("torch", tree) == frozenset()


def test_files_differ_from_a_commit_whether_committed_or_not(tree):
    git(tree, "init", "-q")
    git(tree, "add", ".")
    git(tree, "commit", "-qm", "one")
    first = git(tree, "rev-parse", "HEAD")
    (tree / "a/late.py").write_text("x = 1\n")
    git(tree, "commit", "-qam", "two")
    (tree / "a/other.py").write_text("y = 1\n")
    assert changed_files(first, tree) == {tree / "a/late.py", tree / "a/other.py"}
    assert changed_files(f"{first}-dirty", tree) == changed_files(first, tree)
    assert changed_files(git(tree, "rev-parse", "HEAD"), tree) == {tree / "a/other.py"}


@pytest.mark.parametrize("revision", [None, "0" * 40, "--output=mine", "a/late.py"])
def test_a_commit_that_is_unknown_tells_nothing(tree, revision):
    git(tree, "init", "-q")
    assert changed_files(revision, tree) == frozenset()
    assert not (tree / "mine").exists()


def test_a_kernel_counts_for_the_members_that_import_it():
    named = {("experts", "triton"), ("experts", "torch_loop"), ("quant", "fp8_block")}
    kernel = frozenset({ROOT / "moe/kernels/grouped_gemm.py"})
    assert changed(named, kernel) == {("experts", "triton")}
    assert changed(named, frozenset()) == frozenset()


def test_a_case_names_one_member_of_each_family_and_a_whole_layer_no_experts():
    assert {("experts", "torch_loop"), ("quant", "none"), ("router", "softmax")} <= members(case())
    own = members(case(experts="own", layer="tests.harness.outside_layers:Right"))
    assert ("layer", "tests.harness.outside_layers:Right") in own
    assert "experts" not in dict(own)
    assert changed(own, frozenset({ROOT / "tests/harness/outside_layers.py"})) == {
        ("layer", "tests.harness.outside_layers:Right")
    }
