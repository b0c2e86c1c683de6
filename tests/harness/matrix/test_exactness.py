"""Which cases are compared bit for bit, and which formats exact mode refuses."""

from __future__ import annotations

import dataclasses

from harness.matrix.exactness import exact_refusal
from moe.formats import FORMATS
from moe.spec import Scheme


def scheme_of(monkeypatch, **changes):
    """A scheme whose weights are in a format that differs from fp8_block."""
    odd = dataclasses.replace(FORMATS["fp8_block"], name="odd", **changes)
    monkeypatch.setattr(FORMATS, "_rows", FORMATS.rows | {"odd": odd})
    return Scheme(weights="odd", activations="fp8_group")


def test_exact_mode_asks_the_format(monkeypatch):
    assert exact_refusal(Scheme(weights="fp8_block", activations="fp8_group")) is None
    found = exact_refusal(scheme_of(monkeypatch, exact_scale=False))
    text = "exact mode: format odd does not promise exact scales (exact_scale in its row)"
    assert (found.code, found.text) == ("exact_unsupported", text)


def test_exact_mode_refuses_blocks_that_its_inputs_do_not_know(monkeypatch):
    found = exact_refusal(scheme_of(monkeypatch, block=(64, 64)))
    text = "exact mode: no inputs exist for scales of format odd, which has blocks of (64, 64)"
    assert (found.code, found.text) == ("exact_unsupported", text)
