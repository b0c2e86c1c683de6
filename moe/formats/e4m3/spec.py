"""Define the rows of fp8 e4m3 (OCP, `torch.float8_e4m3fn`): weight formats, then activations."""

from __future__ import annotations

from moe.formats.format import Format
from moe.spec import Needs

# Products of e4m3 codes need matrix units for OCP e4m3: e4m3fnuz units read each code as half.
_NEEDS = Needs(features=frozenset({"fp8_e4m3"}))


def _row(name: str, block: tuple[int | None, int | None], *, static: bool = False) -> Format:
    """Return a format of e4m3 codes that share a scale per block."""
    return Format(
        name=name,
        target="moe.formats.e4m3.codec:E4M3",
        truth="moe.formats.e4m3.truth:E4M3Truth",
        needs=_NEEDS,
        grid="e4m3",
        top=448.0,
        block=block,
        static=static,
        exact_scale=True,
    )


ROWS = (
    _row("fp8_tensor", (None, None)),  # weights, one scale per expert's matrix
    _row("fp8_channel", (1, None)),  # weights, one scale per output channel
    _row("fp8_block", (128, 128)),  # weights, one scale per 128x128 block
    _row("fp8_static", (None, None), static=True),  # activations, one calibrated scale
    _row("fp8_dynamic", (None, None)),  # activations, one scale per call
    _row("fp8_token", (1, None)),  # activations, one scale per token
    _row("fp8_group", (1, 128)),  # activations, one scale per 128 columns of a token
)
