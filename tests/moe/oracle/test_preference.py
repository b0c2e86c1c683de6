"""The order in which backends are tried: stated for formats and chips, and nothing but an order."""

import pytest

from moe.experts import EXPERTS
from moe.formats import FORMATS
from moe.oracle.preference import PREFERENCES, ordered, preference
from moe.platforms import PLATFORMS, platform
from moe.quant import QUANT
from moe.spec import MemberSpec, Scheme

FP8 = Scheme(weights="fp8_block", activations="fp8_group", weight_bytes=1)
INT8_WEIGHTS = Scheme(weights="int8_channel", activations="model", weight_bytes=1)
ROWS = tuple(MemberSpec(name=n, target="x:Y") for n in ("a", "triton", "deep_gemm", "aiter", "z"))
# Rows of packages that this project may not have yet; any other name must be a row.
PLANNED = {"deep_gemm"}


def names(scheme, chip):
    return [row.name for row in ordered(ROWS, scheme, platform(chip))]


def test_named_rows_come_first_and_others_keep_their_order():
    assert names(FP8, "cuda_sm90") == ["deep_gemm", "triton", "a", "aiter", "z"]
    assert names(FP8, "rocm_gfx950") == ["aiter", "triton", "a", "deep_gemm", "z"]


def test_without_an_entry_the_order_is_the_tables():
    assert preference(FP8, platform("cpu")) is None
    assert names(FP8, "cpu") == [row.name for row in ROWS]


def test_weight_only_schemes_are_told_from_others():
    with_codes = Scheme(weights="int8_channel", activations="int8_token", weight_bytes=1)
    entry = preference(INT8_WEIGHTS, platform("cuda_sm90"))
    assert entry is not None
    assert entry.first[0] == "triton_kernels"
    assert preference(with_codes, platform("cuda_sm90")) is None


@pytest.mark.parametrize("entry", PREFERENCES, ids=lambda entry: entry.reason[:30])
def test_each_entry_has_a_reason_and_can_apply(entry):
    assert len(entry.reason.split()) > 3
    chips = [platform(row.name) for row in PLATFORMS.built_in]
    assert any(entry.features <= chip.features for chip in chips)
    assert entry.grids <= {fmt.grid for fmt in FORMATS}
    assert set(entry.first) <= {*EXPERTS.rows} | PLANNED


def test_every_row_is_tried_for_every_scheme_and_chip():
    for chip in PLATFORMS.built_in:
        for quant in QUANT:
            rows = ordered(EXPERTS, quant.scheme, platform(chip.name))
            assert sorted(row.name for row in rows) == sorted(EXPERTS.rows)
