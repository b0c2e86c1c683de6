"""Define the rows of int8: weight formats, then activations. Torch-free."""

from __future__ import annotations

from moe.formats.format import Format


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


ROWS = (
    _row("int8_channel", (1, None)),  # weights, one scale per output channel
    _row("int8_block", (128, 128)),  # weights, one scale per 128x128 block
    _row("int8_token", (1, None)),  # activations, one scale per token
    _row("int8_group", (1, 128)),  # activations, one scale per 128 columns of a token
)
