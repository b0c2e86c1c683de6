"""A format's row: what it can say, and how many scales it gives a matrix."""

import dataclasses

import pytest

from moe.formats import FORMATS

FP8 = FORMATS["fp8_tensor"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("scale_dtype", "e8m0"), ("global_scale", True), ("zero_point", True), ("packing", 2)],
)
def test_what_nobody_can_follow_yet_is_no_format(field, value):
    text = f"format 'fp8_tensor' has {field} {value!r}; codecs and reference know "
    with pytest.raises(ValueError, match=text):
        dataclasses.replace(FP8, **{field: value})


def test_codes_need_a_block_and_values_have_none():
    with pytest.raises(ValueError, match="grid 'e4m3', None; codes need a block, such as"):
        dataclasses.replace(FP8, block=None)
    with pytest.raises(ValueError, match=r"grid 'model', \(1, None\); codes need a block"):
        dataclasses.replace(FORMATS["model"], block=(1, None))
