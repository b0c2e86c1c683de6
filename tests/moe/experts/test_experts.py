"""Rows of experts backends: formats that exist, and rounding as each row declares it.

Numerics are measured: the mean over rows and cases of squared distance over declared variance.
"""

import itertools

import pytest

from harness import parallel_launch
from moe.experts import EXPERTS
from moe.formats import FORMATS
from moe.kernels.launch import INTERPRETED
from moe.platforms import platform
from moe.quant import QUANT
from moe.spec import ANY, DTYPE_BYTES, Numerics
from tests.moe.reference.residuals import SEEDS, all_ratios, case, context, in_rank

pytestmark = pytest.mark.usefixtures("one_thread")
EXACT = (0.8, 1.25)  # nothing but the last roundings is left: 128 rows of 128 columns say it well
# A sum in the layer's dtype: each of its roundings is counted as that of the last, largest sum.
SUMMED = (0.6, 1.2)
FLIPS = (0.5, 2.25)  # codes near a tie may flip, or not
INTERPRETED_ALONE = pytest.mark.skipif(
    not INTERPRETED, reason="the rank is a CPU's, and kernels are compiled in this process"
)
BELOW = (0.0, 2.25)  # float32 outputs are not rounded: what is left is below what is allowed


@pytest.mark.parametrize("row", list(EXPERTS), ids=lambda row: row.name)
def test_formats_that_a_row_names_exist(row):
    needs = row.needs
    pairs = needs.formats
    if pairs is ANY:
        pairs = set(itertools.product(FORMATS.rows, FORMATS.rows))
    pairs = pairs.union(*(on.formats for on in needs.formats_on))
    assert needs.dtypes is ANY or needs.dtypes <= set(DTYPE_BYTES)
    assert {name for pair in pairs for name in pair} | set(row.numerics_of) <= set(FORMATS.rows)
    activations = {a for _, a in pairs}
    assert set(row.numerics_of) <= activations, "numerics of a format that it never gets"


def claims():
    """(experts, quant, dtype) of all that rows take on a CPU and can declare."""
    cpu = platform("cpu")
    for row, quant, dtype in itertools.product(EXPERTS, QUANT, DTYPE_BYTES):
        point = case(experts=row.name, quant=quant.name, dtype=dtype)
        stated = row.numerics_for(point.layer_spec.scheme, "cpu")
        if not stated.unstated and row.needs.refusal(point.layer_spec, cpu) is None:
            yield row.name, quant.name, dtype


def limits(experts, quant, dtype):
    declared = EXPERTS.row(experts).numerics_for(QUANT.row(quant).scheme, "cpu")
    if dtype == "f32":
        return BELOW
    if declared.combine == "model":
        return SUMMED
    return EXACT if declared == Numerics.stated() or quant == "none" else FLIPS


def mean(values):
    return sum(values) / len(values)


@pytest.mark.parametrize(("experts", "quant", "dtype"), list(claims()))
def test_a_member_rounds_as_its_row_declares(experts, quant, dtype):
    point = case(experts=experts, quant=quant, dtype=dtype, all2all="local")
    seeds = 2
    if FORMATS[QUANT.row(quant).scheme.activations].has_one_scale:
        seeds = SEEDS  # its doubt is all rows' at once, so that a call is one sample
    elif not experts.startswith("triton"):  # interpreted: as many rows would take a second
        point = point.replace(m=64)
    found = mean(all_ratios(point, context(), seeds=seeds))
    low, high = limits(experts, quant, dtype)
    assert low <= found <= high


@pytest.mark.parametrize("quant", ["none", "int8_channel"])
@pytest.mark.parametrize(
    "fields",
    [
        {"tp_size": 2},
        {"dp_size": 2, "use_ep": True},
        {"dp_size": 2, "tp_size": 2, "use_ep": True, "sequence_parallel": True},
        {"dp_size": 2, "tp_size": 2, "shared_experts": 1},
    ],
    ids=str,
)
def test_sums_between_ranks_round_as_the_reference_says(fields, quant):
    point = case(**fields, quant=quant, n=256)
    for values in parallel_launch(point.world_size, in_rank, point.id):
        assert 0.4 <= mean(values) <= 1.25


UNTRUE = [
    ("torch_loop", "none", Numerics.stated(expert="model")),
    ("torch_loop", "none", Numerics.stated(activation="model")),
    *(("torch_loop", q.name, Numerics.stated(gemm1="model")) for q in QUANT if q.name != "none"),
    *(
        ("torch_loop", q.name, Numerics.stated(activation="model"))
        for q in QUANT
        if q.name != "none"
    ),
    ("torch_grouped", "none", Numerics.stated()),
    *(
        pytest.param("triton", *untrue, marks=INTERPRETED_ALONE)
        for untrue in (
            ("none", Numerics.stated()),
            ("int8_channel", Numerics.stated()),
            ("fp8_block", Numerics.stated()),
            ("fp8_tensor", Numerics.stated(gemm1="model", expert="model")),
        )
    ),
]


@pytest.mark.parametrize(("experts", "quant", "declared"), UNTRUE)
def test_an_untrue_declaration_shows(experts, quant, declared):
    point = case(experts=experts, quant=quant, all2all="local")
    found = mean(all_ratios(point, context(), declared, seeds=2))
    low, high = limits(experts, quant, "bf16")
    assert not low <= found <= high
