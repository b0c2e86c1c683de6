"""Work that interpreted launches leave out: the same bits, and nothing stays replaced."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter as of_triton

from moe.kernels import interpreter, launch
from moe.kernels.align import align_tokens
from moe.kernels.combine import combine
from moe.kernels.interpreter_memory import replacements
from tests.moe.kernels.pinned_triton import pinned_triton

pytestmark = pytest.mark.skipif(not launch.INTERPRETED, reason="kernels are compiled here")


@pytest.fixture
def patched(monkeypatch) -> list[str]:
    """The functions for which Triton has replaced its language, in order."""
    names, patch = [], of_triton._patch_lang

    def counted(function):
        names.append(function.__name__)
        return patch(function)

    monkeypatch.setattr(of_triton, "_patch_lang", counted)
    return names


def _outputs() -> list[torch.Tensor]:
    """Run kernels that call functions of their own, of another module and of the language."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(-1, 4, (9, 2), generator=generator, dtype=torch.int32)
    y = torch.randn(18, 33, generator=generator).bfloat16()
    aligned = align_tokens(ids, 4, 16)
    out = combine(y, torch.rand(9, 2, generator=generator), ids)
    return [aligned.row_ids, aligned.block_expert, aligned.num_rows, out]


@pinned_triton
def test_the_language_is_replaced_once_for_each_view_of_it(patched, monkeypatch):
    spared = _outputs()
    # `triton.language` for ours, then `triton.language.core` for the language's own functions.
    assert 1 <= len(patched) <= 2, f"more than these for three launches: {patched}"
    count = len(patched)
    monkeypatch.setattr(interpreter, "spared", nullcontext)
    repeated = _outputs()
    assert len(patched) - count > 3 * 3, "Triton no longer repeats it: delete this module"
    assert all(torch.equal(a, b) for a, b in zip(spared, repeated, strict=True))


def test_a_replacement_of_somebody_else_is_found(monkeypatch):
    """What is known of an earlier launch is not put over it, nor lost when the launch ends."""
    _outputs()
    calls, load = [], tl.load

    @tl.core.builtin
    def counted(*args, **options):
        calls.append(1)
        return tl.core.load(*args, **{k: v for k, v in options.items() if k != "_semantic"})

    monkeypatch.setattr(tl, "load", counted)
    _outputs()
    assert calls
    assert tl.load is counted
    monkeypatch.setattr(tl, "load", load)
    calls.clear()
    _outputs()
    assert not calls


@pytest.mark.parametrize("fails", [False, True])
def test_all_is_restored(fails):
    names = "_patch_lang", "interpreter_builder"
    before = [getattr(of_triton, name) for name in names]
    options, load = of_triton.interpreter_builder.options, tl.load
    remembering = [(owner, name, getattr(owner, name)) for owner, name, _ in replacements()]
    with pytest.raises(KeyError) if fails else nullcontext(), interpreter.spared():
        assert of_triton._patch_lang is not before[0]
        assert all(getattr(owner, name) is not value for owner, name, value in remembering)
        assert not of_triton.interpreter_builder.options.sanitize_overflow
        if fails:
            raise KeyError
    assert [getattr(of_triton, name) for name in names] == before
    assert of_triton.interpreter_builder.options is options
    assert options.sanitize_overflow
    assert all(getattr(owner, name) is value for owner, name, value in remembering)
    _outputs()
    assert tl.load is load


def test_overflow_is_computed_where_it_is_looked_at(monkeypatch):
    builder = of_triton.interpreter_builder
    monkeypatch.setattr(builder, "options", replace(builder.options, debug=True))
    with interpreter.spared():
        assert builder.options.sanitize_overflow


def test_an_interpreter_of_another_kind_is_left_alone(monkeypatch):
    monkeypatch.delattr(of_triton, "_patch_lang")
    monkeypatch.delattr(of_triton.interpreter_builder, "options")
    with interpreter.spared():
        assert not hasattr(of_triton, "_patch_lang")
        assert not hasattr(of_triton.interpreter_builder, "options")
    assert not hasattr(of_triton, "_patch_lang")
    assert not hasattr(of_triton.interpreter_builder, "options")
