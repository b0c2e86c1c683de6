"""Define the rows of fp8 e4m3fnuz (`torch.float8_e4m3fnuz`): weight formats, then activations.

They are formats of their own, and not what `fp8_tensor` means on some chips: a case names one grid,
so that it gives the same codes, and fails in the same way, on every machine.
"""

from __future__ import annotations

from moe.formats.format import Format
from moe.formats.fp8 import E4M3FNUZ_MAX
from moe.spec import Needs

# Products of e4m3fnuz codes need matrix units that read them so.
_NEEDS = Needs(features=frozenset({"fp8_e4m3fnuz"}))


def _row(name: str, block: tuple[int | None, int | None], *, static: bool = False) -> Format:
    """Return a format of e4m3fnuz codes that share a scale per block."""
    return Format(
        name=name,
        target="moe.formats.e4m3fnuz.codec:E4M3FNUZ",
        truth="moe.formats.e4m3fnuz.truth:E4M3FNUZTruth",
        needs=_NEEDS,
        grid="e4m3fnuz",
        top=E4M3FNUZ_MAX,
        block=block,
        static=static,
        exact_scale=True,
    )


ROWS = (
    _row("fp8_fnuz_tensor", (None, None)),  # weights, one scale per expert's matrix
    _row("fp8_fnuz_channel", (1, None)),  # weights, one scale per output channel
    _row("fp8_fnuz_block", (128, 128)),  # weights, one scale per 128x128 block
    _row("fp8_fnuz_static", (None, None), static=True),  # activations, one calibrated scale
    _row("fp8_fnuz_dynamic", (None, None)),  # activations, one scale per call
    _row("fp8_fnuz_token", (1, None)),  # activations, one scale per token
    _row("fp8_fnuz_group", (1, 128)),  # activations, one scale per 128 columns of a token
)
