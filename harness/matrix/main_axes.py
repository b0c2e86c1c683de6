"""Declare the axes of a case that every case has a value of: sizes, members and layout.

They come first in ids and in the matrix file; `harness.matrix.case_axes` has the others.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.matrix.axis import axis
from moe.layers import OWN
from moe.oracle import AUTO
from moe.spec import DTYPE_BYTES

MOST_WITH_SHARES = 10  # most experts of a token of which none is less of its row than
SMALLEST_SHARE = 0.15  # by the norms of what the expert adds to the row, and of the row
LEAST_WITH_SHARES = 32  # smallest n and k for which inputs are made so
# With fewer than 64 columns a row's error scatters too much for a tolerance of six sigma.
SIZES = (64, 72, 96, 100, 128, 131, 160, 192, 200, 256, 320, 384, 512, 640, 768, 1024)
_EXPERT_COUNTS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 64)


@dataclass(frozen=True, kw_only=True)
class MainAxes:
    """Say the sizes, the members and the layout."""

    m: int = axis(
        "m", "tokens per DP rank", group="shapes", outputs_agree=True, simplest=(1, 2, 3, 4)
    )
    n: int = axis("n", "intermediate size", group="shapes", simplest=SIZES)
    k: int = axis("k", "hidden size", group="shapes", simplest=SIZES)
    num_experts: int = axis("e", "routed experts of the layer", simplest=_EXPERT_COUNTS)
    total_experts: int = axis(
        "of",
        "experts of the layer if the case is some ranks' share, whose router sees its own; 0: all",
        default=0,
        minimum=0,
    )
    top_k: int = axis(
        "topk",
        f"experts that a token is routed to; above {MOST_WITH_SHARES} one of them may be less than "
        f"{SMALLEST_SHARE:g} of a row",
        simplest=(1, 2, 3, 4, 6, 8),
    )
    experts: str = axis(
        "experts",
        "experts backend: a name, `auto`, 'pkg.mod:Class', or `own` (a layer's)",
        family="experts",
        extra_names=(AUTO, OWN),
        outputs_agree=True,
    )
    all2all: str = axis(
        "a2a",
        "all2all backend: a name or 'pkg.mod:Class'",
        default="allgather_reducescatter",
        family="all2all",
        outputs_agree=True,
        simplest=(),
    )
    quant: str = axis(
        "quant",
        "quantization method: a name or 'pkg.mod:Class'",
        default="none",
        family="quant",
    )
    dtype: str = axis(
        "dtype",
        "dtype of activations, of weights before quantization, and of outputs",
        default="bf16",
        choices=tuple(DTYPE_BYTES),
        simplest=("bf16",),
    )
    dp_size: int = axis(
        "dp", "data-parallel size", default=1, group="layouts", outputs_agree=True, simplest=()
    )
    tp_size: int = axis(
        "tp",
        "tensor-parallel size; world size = dp * pcp * tp",
        default=1,
        group="layouts",
        outputs_agree=True,
        simplest=(),
    )
    use_ep: bool = axis(
        "ep",
        "spread the experts over all ranks, or over groups of moe_tp ranks",
        default=False,
        group="layouts",
        outputs_agree=True,
        simplest=(),
    )
    sequence_parallel: bool = axis(
        "sp",
        "split tokens over the TP ranks; needs ep and tp > 1",
        default=False,
        group="layouts",
        outputs_agree=True,
        simplest=(),
    )
