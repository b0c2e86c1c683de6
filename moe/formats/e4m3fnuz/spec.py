"""Define the rows of fp8 e4m3fnuz (`torch.float8_e4m3fnuz`): weight formats, then activations.

They are formats of their own, and not what `fp8_tensor` means on some chips: a case names one grid,
so that it gives the same codes, and fails in the same way, on every machine.
"""

from __future__ import annotations

from moe.formats.format import Format
from moe.formats.fp8 import E4M3FNUZ_MAX, rows_of
from moe.spec import Needs

ROWS = rows_of(
    Format(
        name="fp8_fnuz_tensor",
        target="moe.formats.e4m3fnuz.codec:E4M3FNUZ",
        truth="moe.formats.e4m3fnuz.truth:E4M3FNUZTruth",
        # Products of e4m3fnuz codes need matrix units that read them so.
        needs=Needs(features=frozenset({"fp8_e4m3fnuz"})),
        grid="e4m3fnuz",
        top=E4M3FNUZ_MAX,
        block=(None, None),
        exact_scale=True,
    )
)
