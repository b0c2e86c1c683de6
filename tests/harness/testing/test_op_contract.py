"""The contract of custom operators: a right one passes, and each breach is one line."""

import pytest
import torch

from harness.errors import UsageError
from harness.testing.op_contract import check_op, compile_errors, fake_errors

LIBRARY = "harness_tests"
CALLS = [(torch.ones(t, 8), torch.zeros(t, 2, dtype=torch.int64)) for t in (2, 5, 16)]


def mlp(x, ids):
    """Return [T, K] from x [T, K] and ids [T, k]."""
    return x * (1 + ids.sum(dim=1, keepdim=True))


def defined(name, function=mlp, fake=mlp, schema="(Tensor x, Tensor ids) -> Tensor"):
    """Return a new operator with these kernels."""
    full = f"{LIBRARY}::{name}"
    torch.library.define(full, schema)
    torch.library.impl(full, "cpu", function)
    if fake is not None:
        torch.library.register_fake(full, fake)
    return getattr(getattr(torch.ops, LIBRARY), name).default


def test_a_right_operator_passes():
    check_op(defined("right"), CALLS[:2])


def test_an_input_that_is_changed_against_the_schema_is_named():
    def changes(x, ids):
        x += 1
        return mlp(x, ids)

    wide = defined("changes", changes, fake=lambda x, ids: x.new_empty(len(x), 9))
    with pytest.raises(AssertionError) as raised:
        check_op(wide, CALLS[:2])
    first, *lines = str(raised.value).splitlines()
    assert first == "harness_tests.changes.default breaks its contract:"
    assert any(line.startswith("call 0: opcheck test_schema: ") for line in lines)
    assert any("and under fake tensors [([2, 9], " in line for line in lines)


@pytest.mark.parametrize(
    ("name", "fake", "text"),
    [
        ("wide", lambda x, ids: x.new_empty(len(x), 9), "and under fake tensors [([2, 9], "),
        ("half", lambda x, ids: x.half(), "torch.float16"),
        ("turned", lambda x, ids: x.T.contiguous().T, "([2, 8], [1, 2], torch.float32"),
    ],
)
def test_a_fake_kernel_that_says_another_output_is_named(name, fake, text):
    lines = list(fake_errors(defined(name, fake=fake), CALLS))
    assert len(lines) == len(CALLS)
    assert text in lines[0]


def test_an_operator_without_a_fake_kernel_is_named():
    op = defined("no_fake", fake=None)
    assert next(fake_errors(op, CALLS)).startswith("call 0: raises under fake tensors: ")
    (line,) = compile_errors(op, CALLS)
    assert line.startswith("does not compile into one graph: ")


def test_a_size_that_is_fixed_while_compiling_is_named():
    def specialised(x, ids):
        return x.new_empty(int(x.shape[0]), 8)

    (line,) = compile_errors(defined("specialised", fake=specialised), CALLS)
    assert line.startswith("does not compile into one graph: ")


def test_a_function_that_compiles_again_for_each_size_is_named():
    """Not an operator with a schema, but what calls one: a guard on T is a compilation for each."""

    def guarded(x, ids):
        return mlp(x, ids) if x.shape[0] > 4 else mlp(x, ids) + 1

    (line,) = compile_errors(guarded, CALLS)
    assert line.startswith("is compiled 2 times for the sizes [[[2, 8], [2, 2]], [[5, 8], ")


def test_a_break_of_the_graph_is_named():
    def breaks(x, ids):
        torch._dynamo.graph_break()
        return mlp(x, ids)

    (line,) = compile_errors(breaks, CALLS)
    assert line.startswith("does not compile into one graph: ")


@pytest.mark.parametrize("calls", [[], CALLS[:1], [CALLS[0], CALLS[0]]])
def test_calls_of_one_size_show_nothing(calls):
    with pytest.raises(UsageError, match="give calls of at least two sizes"):
        check_op(mlp, calls)


def test_calls_with_other_tensors_are_refused():
    with pytest.raises(UsageError, match="the same number of tensors"):
        check_op(mlp, [CALLS[0], (CALLS[1][0],)])
