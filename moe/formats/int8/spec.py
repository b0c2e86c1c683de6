"""Define the rows of int8, with one scale per row of the tensor. Torch-free."""

from __future__ import annotations

from moe.formats.format import Format


def _row(name: str) -> Format:
    """Return a format of int8 codes with one scale per row."""
    return Format(
        name=name,
        target="moe.formats.int8.codec:Int8",
        truth="moe.formats.int8.truth:Int8Truth",
        grid="int8",
        top=127.0,
        block=(1, None),
        exact_scale=True,
    )


ROWS = (
    _row("int8_channel"),  # weights, one scale per output channel
    _row("int8_token"),  # activations, one scale per token
)
