"""Which members' code has changed: by imports that are read, and by a real repository."""

import pytest

from harness.plan.changed_members import ROOT, changed, changed_files, members
from tests.harness.plan.points import case
from tests.harness.plan.repositories import git, repository


@pytest.fixture
def tree(tmp_path):
    return repository(tmp_path, {"a/late.py": "", "a/other.py": ""})


def test_files_differ_from_a_commit_whether_committed_or_not(tree):
    first = git(tree, "rev-parse", "HEAD")
    (tree / "a/late.py").write_text("x = 1\n")
    git(tree, "commit", "-qam", "two")
    (tree / "a/other.py").write_text("y = 1\n")
    assert changed_files(first, tree) == {tree / "a/late.py", tree / "a/other.py"}
    assert changed_files(f"{first}-dirty", tree) == changed_files(first, tree)
    assert changed_files(git(tree, "rev-parse", "HEAD"), tree) == {tree / "a/other.py"}


@pytest.mark.parametrize("revision", [None, "0" * 40, "--output=mine", "a/late.py"])
def test_a_commit_that_is_unknown_tells_nothing(tree, revision):
    assert changed_files(revision, tree) == frozenset()
    assert not (tree / "mine").exists()


def test_a_kernel_counts_for_the_members_that_import_it():
    named = {("experts", "triton"), ("experts", "torch_loop"), ("quant", "fp8_block")}
    kernel = frozenset({ROOT / "moe/kernels/grouped_gemm.py"})
    assert changed(named, kernel) == {("experts", "triton")}
    assert changed(named, frozenset()) == frozenset()


@pytest.mark.parametrize(
    ("file", "member"),
    [
        ("moe/routers/softmax/truth.py", ("router", "softmax")),
        ("moe/formats/e4m3/codec.py", ("quant", "fp8_block")),
        ("moe/kernels/group_weights.py", ("quant", "mxfp8")),
    ],
)
def test_what_a_row_names_besides_its_class_counts_too(file, member):
    named = {("router", "softmax"), ("quant", "fp8_block"), ("quant", "none"), ("quant", "mxfp8")}
    assert member in changed(named, frozenset({ROOT / file}))
    assert ("quant", "none") not in changed(named, frozenset({ROOT / file}))


def test_shared_experts_have_a_quantization_method_of_their_own():
    assert ("quant", "fp8_block") in members(case(shared_experts=1, shared_quant="fp8_block"))
    assert ("quant", "none") not in members(case(quant="fp8_block"))


def test_a_case_names_one_member_of_each_family_and_a_whole_layer_no_experts():
    assert {("experts", "torch_loop"), ("quant", "none"), ("router", "softmax")} <= members(case())
    own = members(case(experts="own", layer="tests.harness.outside_layers:Right"))
    assert ("layer", "tests.harness.outside_layers:Right") in own
    assert "experts" not in dict(own)
    assert changed(own, frozenset({ROOT / "tests/harness/outside_layers.py"})) == {
        ("layer", "tests.harness.outside_layers:Right")
    }
