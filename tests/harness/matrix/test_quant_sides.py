"""Methods by the properties of their formats: every row is the one that its own properties name."""

from harness.matrix.quant_sides import Side, method_of
from moe.formats import FORMATS
from moe.quant import QUANT

KINDS = {
    "e4m3": "float",
    "e2m1": "float",
    "int8": "int",
    "uint8": "int",
    "int4": "int",
    "uint4": "int",
}


def side_of(fmt):
    if fmt.grid == "model":
        return None
    return Side(
        kind=KINDS[fmt.grid],
        bits=8 // fmt.packing,
        block=fmt.block,
        scale=fmt.scale_dtype,
        zero_point=fmt.zero_point,
        static=fmt.static,
    )


def test_each_method_is_the_one_with_its_formats():
    rows = [row for row in QUANT if FORMATS[row.scheme.weights].grid in KINDS]
    assert len(rows) >= 20
    for row in rows:
        weights, activations = FORMATS[row.scheme.weights], FORMATS[row.scheme.activations]
        assert method_of(side_of(weights), side_of(activations)) == row.name


def test_no_method_has_other_formats():
    odd = Side(kind="float", bits=6, block=(1, 32), scale="e8m0")
    assert method_of(odd, None) is None
    assert method_of(Side(kind="float", bits=8, block=(64, 64)), None) is None
