"""Warnings of the compiler: each accepted one is named with its chips and a reason."""

import re

from moe.kernels.aot_compile import CHIPS
from moe.kernels.aot_warnings import ACCEPTED, Accepted, unlisted

SLOW = Accepted(pattern=r"upcasted to \w+", chips=("gfx950",), reason="it has no such units")


def test_a_warning_is_accepted_by_its_text_and_on_its_chips_only():
    texts = ("UserWarning: upcasted to fp16", "remark: spilled")
    assert unlisted(texts, "gfx950", [SLOW]) == ("remark: spilled",)
    assert unlisted(texts, "sm90", [SLOW]) == texts
    assert unlisted(texts, "gfx950", []) == texts


def test_each_entry_compiles_and_names_chips_and_a_reason():
    for entry in ACCEPTED:
        re.compile(entry.pattern)
        assert set(entry.chips) <= set(CHIPS)
        assert len(entry.reason.split()) > 3
