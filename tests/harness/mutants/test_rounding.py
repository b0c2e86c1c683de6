"""Numbers in another format give what the real stack gives with them."""

from __future__ import annotations

import dataclasses

import pytest

from harness.mutants import NotApplicable, named
from tests.harness.mutants.real_layer import assert_foretold
from tests.harness.mutants.samples import (
    assert_no_mistake,
    case,
    scene,
)


def halves(w):
    return w.replace(w13_scale=w.w13_scale / 2, w2_scale=w.w2_scale / 2)


def test_codes_beyond_the_range_become_nan_and_say_so():
    here = scene(case(quant="fp8_tensor_dynamic"))
    tiny = here.answer.tensor_scales[0] / 8
    scales = (tiny, here.answer.tensor_scales[1])
    answer = dataclasses.replace(here.answer, tensor_scales=scales)
    out = named("overflow_to_nan").compute(dataclasses.replace(here, answer=answer, memo={}))
    assert out.isnan().any()
    with pytest.raises(NotApplicable, match="beyond the range"):
        named("overflow_to_nan").compute(here)


IN_WEIGHTS = [
    ("fnuz_codes", "fp8_block", halves),
]


@pytest.mark.parametrize(("name", "quant", "change"), IN_WEIGHTS)
def test_a_mistake_in_the_weights_is_foretold(name, quant, change):
    assert_foretold(name, case(quant=quant), change_weights=change)


NO_MISTAKE = [
    ("weights_unquantized", case(), "nothing is quantized"),
    ("fnuz_codes", case(quant="int8_channel"), "nothing is quantized to fp8"),
    ("bf16_accumulation", case(dtype="f32"), "the model dtype is float32"),
]


@pytest.mark.parametrize(("name", "point", "text"), NO_MISTAKE)
def test_where_it_changes_nothing_it_is_no_mistake_and_says_why(name, point, text):
    assert_no_mistake(name, point, text)
