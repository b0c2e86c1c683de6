"""Fields of a quantization that are not known: named, unless they have no value."""

import pytest

from harness.errors import UsageError
from harness.matrix.hf_fields import Fields
from harness.matrix.hf_quant_fields import check_fields


def check(method, **values):
    check_fields(Fields(path="c.json", values={"quant_method": method, **values}), method)


def test_an_unknown_field_is_named_with_its_value_and_the_way_out():
    check("awq", bits=4, zero_point=True, version="gemm", odd=None, other=[])
    text = (
        "--model c.json: quantization_config has odd = 3, which is not known of awq and may change"
    )
    with pytest.raises(
        UsageError, match=f"{text} .*: remove the field if it does not, or describe"
    ):
        check("awq", odd=3)


def test_a_method_without_a_row_is_refused_by_its_name_later():
    check("hqq", odd=3)
