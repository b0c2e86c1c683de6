"""An error that no row's tolerance sees: one element, or a bias of all rows."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

import pytest
import torch

from harness.checks.output import judge
from harness.record.result import Verdict
from moe.reference.error_propagation import rounding_variance
from moe.spec import Numerics
from tests.harness.checks.answers import CASE, answer_of

if TYPE_CHECKING:
    from moe.reference.result import Answer


def truncated(x: torch.Tensor) -> torch.Tensor:
    """To bf16, towards zero."""
    return (x.view(torch.int32) & -65536).view(torch.float32).bfloat16()


def one_column(x: torch.Tensor, sigmas: float) -> torch.Tensor:
    """Every row off in one column, by so many standard deviations of an element of it."""
    off = x.clone()
    off[:, 77] += sigmas * (ROUNDED.variance / x.shape[1]).sqrt()
    return off.bfloat16()


# A member that rounds each expert's output as well, so that a row's bound has more room.
ROUNDED = answer_of(CASE.replace(k=2048), Numerics.stated(expert="model"))
FINE = {
    "longer": lambda x: (x * 1.001).bfloat16(),
    "shorter": lambda x: (x * 0.999).bfloat16(),
    "cut off": truncated,
    "one column": lambda x: one_column(x, 40.0),
}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("longer", "outputs are 0.10 % too large on average (rounding explains 0.0"),
        ("shorter", "outputs are 0.10 % too small on average (rounding explains 0.0"),
        ("cut off", " %): a wrong scale, or truncation instead of rounding"),
        ("one column", "every row is within tolerance, but 32 of 32 rows have single elements "),
    ],
)
def test_an_error_that_no_row_s_bound_sees_is_found(name: str, text: str) -> None:
    found = judge(FINE[name](ROUNDED.out), ROUNDED)
    assert found.verdict is Verdict.FAILED
    assert text in found.messages[0]
    assert found.metrics["bad_rows"] == 0
    unknown = judge(FINE[name](ROUNDED.out), dataclasses.replace(ROUNDED, along=None))
    assert unknown.verdict is Verdict.PASSED  # so it was this check and no other


def test_small_outputs_of_an_interpreted_kernel_have_the_interpreter_named(monkeypatch) -> None:
    def named(name: str, change=lambda x: x) -> bool:
        message = judge(change(FINE[name](ROUNDED.out)), ROUNDED).messages[0]
        return message.endswith(
            "rounding; if it is a Triton kernel that casts to bf16: the interpreter, which runs "
            "kernels without a GPU, truncates there. Round by moe.kernels.rounding.to_model_dtype, "
            "or run it on a GPU"
        )

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert named("cut off")
    assert not named("longer")  # cutting off makes nothing larger
    assert not named("cut off", torch.Tensor.float)  # nothing was cast to bf16
    monkeypatch.delenv("TRITON_INTERPRET")
    assert not named("cut off")


def one_large_column(seed: int, share: float) -> Answer:
    """One row, which is one column but for `share` of it, with the error of a rounding to bf16."""
    draw = torch.Generator().manual_seed(seed)
    out = share * torch.randn(1, 100, generator=draw)
    out[:, 7] = 16 + 16 * torch.rand(1, generator=draw)
    zeros = torch.zeros(1)
    return dataclasses.replace(
        ROUNDED,
        out=out,
        variance=rounding_variance(out, "bf16").sum(dim=1),
        flips=zeros,
        along=torch.zeros(4, 1),
        parts=None,
    )


@pytest.mark.parametrize("share", [0.01, 0.1, 1.0])
def test_the_rounding_of_a_column_that_is_most_of_a_row_is_no_bias(share: float) -> None:
    """Zero experts return tokens, in which one column may be most of the row."""
    answers = [one_large_column(seed, share) for seed in range(40)]
    found = [judge(answer.out.bfloat16(), answer) for answer in answers]
    assert [result.messages for result in found if result.verdict is not Verdict.PASSED] == []
    wrong = [judge((answer.out * 1.02).bfloat16(), answer) for answer in answers]
    assert {result.verdict for result in wrong} == {Verdict.FAILED}


def test_an_element_is_named_with_both_values() -> None:
    text = judge(FINE["one column"](ROUNDED.out), ROUNDED).messages[0]
    assert re.search(
        r"\[\d+, 77\] is -?[\d.]+, expected -?[\d.]+, [\d.]+x the tolerance of an", text
    )
