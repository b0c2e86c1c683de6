"""Define the rows of int8: weight formats, then activations. Torch-free."""

from __future__ import annotations

from moe.formats.format import GROUP_QUANTIZER, Format


def _row(name: str, block: tuple[int | None, int | None]) -> Format:
    """Return a format of int8 codes that share a scale per block."""
    return Format(
        name=name,
        target="moe.formats.int8.codec:Int8",
        truth="moe.formats.int8.truth:Int8Truth",
        grid="int8",
        top=127.0,
        block=block,
        exact_scale=True,
    )


def _group(group: int, *, zero_point: bool = False) -> Format:
    """Return a weight format with a scale per group of columns, with a zero point or symmetric.

    Symmetric codes are from -128 to 127, and amax is 127.5 steps, as in GPTQ.
    """
    return Format(
        name=f"int8_{'zp_' if zero_point else ''}g{group}",
        target=f"moe.formats.int8.codec:{'UInt8' if zero_point else 'FullInt8'}",
        truth="moe.formats.int8.truth:Int8Truth",
        quantizer=GROUP_QUANTIZER,
        grid="uint8" if zero_point else "int8",
        top=255.0 if zero_point else 127.0,
        bottom=0.0 if zero_point else -128.0,
        scale_top=None if zero_point else 127.5,
        zero_point=zero_point,
        scale_divides=True,
        block=(1, group),
        exact_scale=True,
    )


GROUPS = (32, 64, 128)
WEIGHT_ONLY = (
    *(_group(group) for group in GROUPS),
    *(_group(group, zero_point=True) for group in GROUPS),
)
ROWS = (
    _row("int8_channel", (1, None)),  # weights, one scale per output channel
    _row("int8_block", (128, 128)),  # weights, one scale per 128x128 block
    _row("int8_token", (1, None)),  # activations, one scale per token
    _row("int8_group", (1, 128)),  # activations, one scale per 128 columns of a token
    *WEIGHT_ONLY,
)
