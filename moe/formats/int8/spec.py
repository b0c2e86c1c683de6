"""The rows of int8: weights, then activations."""

from __future__ import annotations

from moe.formats.format import Format


def _row(name: str) -> Format:
    return Format(
        name=name,
        target="moe.formats.int8.codec:Int8",
        truth="moe.formats.int8.truth:Int8Truth",
        grid="int8",
        top=127.0,
        block=(1, None),
        exact_scale=True,
    )


ROWS = (_row("int8_channel"), _row("int8_token"))
