"""The rows of fp8 e4m3: weights, then activations."""

from __future__ import annotations

from moe.formats.format import Format


def _row(name: str, block: tuple[int | None, int | None], *, static: bool = False) -> Format:
    return Format(
        name=name,
        target="moe.formats.e4m3.codec:E4M3",
        truth="moe.formats.e4m3.truth:E4M3Truth",
        grid="e4m3",
        top=448.0,
        block=block,
        static=static,
        exact_scale=True,
    )


ROWS = (
    _row("fp8_tensor", (None, None)),
    _row("fp8_block", (128, 128)),
    _row("fp8_static", (None, None), static=True),
    _row("fp8_dynamic", (None, None)),
    _row("fp8_group", (1, 128)),
)
