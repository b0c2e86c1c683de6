"""Define the rows of int4 for weights, with a scale per group of a row's columns. Torch-free."""

from __future__ import annotations

from moe.formats.format import GROUP_QUANTIZER, Format

GROUPS = (32, 64, 128)


def _symmetric(group: int) -> Format:
    """Return a format of codes from -8 to 7. amax is 7.5 steps, as in GPTQ."""
    return Format(
        name=f"int4_g{group}",
        target="moe.formats.int4.codec:Int4",
        truth="moe.formats.int4.truth:Int4Truth",
        quantizer=GROUP_QUANTIZER,
        grid="int4",
        top=7.0,
        bottom=-8.0,
        scale_top=7.5,
        scale_divides=True,
        block=(1, group),
        packing=2,
        exact_scale=True,
    )


def _with_zero_point(group: int) -> Format:
    """Return a format of codes from 0 to 15, with a zero point per group, as in AWQ."""
    return Format(
        name=f"int4_zp_g{group}",
        target="moe.formats.int4.codec:UInt4",
        truth="moe.formats.int4.truth:Int4Truth",
        quantizer=GROUP_QUANTIZER,
        grid="uint4",
        top=15.0,
        bottom=0.0,
        zero_point=True,
        scale_divides=True,
        block=(1, group),
        packing=2,
        exact_scale=True,
    )


ROWS = (*map(_symmetric, GROUPS), *map(_with_zero_point, GROUPS))
