"""Read `--layouts tp:8,ep:8,tp:2+ep:8,ep:8/1`, layouts of a model and shares; name a case's layout.

A layout is words joined by `+`. `tp:N`, `dp:N` and `pcp:N` (context ranks) are sizes; `ep:N`
spreads the experts over N ranks. These are all ranks of the world, or with `moe_tp:M`, which splits
each expert over M ranks, one of M, and with `expert_dp:D` those of one of D parts that each have
all experts: what the sizes leave open of the world are DP ranks. `ep` alone spreads the experts
over all ranks that the sizes make. `sp` splits tokens over the TP ranks.
`ep:W/R` are the first R of W ranks with their share of the experts, as a world of R ranks: a model
that fits no machine here is tested with the shapes that one rank of a real deployment has.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.errors import UsageError
from moe.errors import MoEError
from moe.layer_needs import layout_refusal
from moe.layout import Layout, chunk

if TYPE_CHECKING:
    from harness.matrix.case import MoETestConfig

EXAMPLES = "tp:1, tp:8, dp:2, ep:8, tp:2+ep:8, tp:2+ep+sp or ep:8/1"
_SIZE = re.compile(r"(tp|dp|pcp|ep|moe_tp|expert_dp):([1-9][0-9]{0,3})(?:/([1-9][0-9]{0,3}))?\Z")


@dataclass(frozen=True, kw_only=True)
class LayoutChoice:
    """One layout. of_ranks: the ranks of which it is the first ones; its own number if all."""

    layout: Layout
    of_ranks: int

    @property
    def is_share(self) -> bool:
        return self.of_ranks > self.layout.world_size

    def experts(self, total: int) -> int:
        """Return how many of `total` experts the ranks of this layout hold together."""
        ranks = range(self.layout.world_size)
        return sum(len(chunk(total, self.of_ranks, rank)) for rank in ranks)


def parse_layouts(text: str) -> tuple[LayoutChoice, ...]:
    """Return the layouts of a comma-separated list, each once. Raises UsageError."""
    return tuple(dict.fromkeys(_layout(item.strip()) for item in text.split(",")))


def check_share(case: MoETestConfig) -> None:
    """Raise MoEError for a case that has more experts than the layer of which it is a share."""
    if 0 < case.total_experts < case.num_experts:
        rule = f"of:{case.total_experts} counts all experts of the layer"
        raise MoEError(f"{rule}: at least the share's e:{case.num_experts}, or leave it out")


def _layout(text: str) -> LayoutChoice:
    words = text.split("+")
    sizes, share = _sizes(text, words)
    if len(set(words)) < len(words) or ("ep" in words and "ep" in sizes):
        raise _error(text, "a word is given twice")
    use_ep, sequence_parallel = "ep" in words or "ep" in sizes, "sp" in words
    layout = _of_sizes(text, sizes, share)
    world = layout.world_size
    if sequence_parallel and not (use_ep and layout.tp_size > 1):
        raise _error(text, "sp needs ep, and tp of 2 or more")
    layout = replace(layout, use_ep=use_ep and world > 1, sequence_parallel=sequence_parallel)
    refusal = layout_refusal(layout)
    if refusal is not None:
        raise _error(text, refusal.text)
    return LayoutChoice(layout=layout, of_ranks=sizes["ep"] if share else world)


def _of_sizes(text: str, sizes: dict[str, int], share: int | None) -> Layout:
    """Return the layout of these sizes, DP ranks being what the others leave open."""
    tp, pcp, moe_tp = (sizes.get(name, 1) for name in ("tp", "pcp", "moe_tp"))
    parts = sizes.get("expert_dp", 1)
    if share and moe_tp * parts > 1:
        raise _error(text, "a share of the ranks has whole experts; leave moe_tp and expert_dp out")
    product = sizes.get("dp", 1) * pcp * tp
    world = share or (sizes["ep"] * moe_tp * parts if "ep" in sizes else product)
    dp = sizes.get("dp", max(world // (pcp * tp), 1))
    if dp * pcp * tp != world:
        of_ep = f"ep spreads the experts over {world // (moe_tp * parts)}{_times(moe_tp, parts)}"
        raise _error(text, f"dp * pcp * tp is {dp * pcp * tp}, and {of_ep}")
    return Layout(dp_size=dp, pcp_size=pcp, tp_size=tp, moe_tp_size=moe_tp, expert_dp_size=parts)


def _times(moe_tp: int, parts: int) -> str:
    split = "" if moe_tp == 1 else f" times {moe_tp}, which share an expert"
    return split if parts == 1 else f"{split} in each of {parts} parts"


def _sizes(text: str, words: list[str]) -> tuple[dict[str, int], int | None]:
    """Return the sizes by name, and how many ranks `ep:W/R` keeps, or None."""
    sizes: dict[str, int] = {}
    share = None
    for word in words:
        match = _SIZE.match(word)
        if match is None and word not in ("ep", "sp"):
            raise _error(text, f"{word!r} is not a word of a layout")
        if match is None:
            continue
        name, size, part = match[1], int(match[2]), match[3]
        if name in sizes:
            raise _error(text, f"{name} is given twice")
        if part is not None:
            share = _share(text, name, size, int(part))
        sizes[name] = size
    return sizes, share


def _share(text: str, name: str, ranks: int, part: int) -> int:
    if name != "ep":
        raise _error(text, f"only ep can be a share, as ep:{ranks}/{part}, not {name}")
    if part >= ranks:
        raise _error(text, f"a share has fewer than all {ranks} ranks; write ep:{ranks}")
    return part


def _error(text: str, rule: str) -> UsageError:
    return UsageError(f"--layouts {text!r}: {rule}; give layouts such as {EXAMPLES}")


def layout_word(layout: Layout) -> str:
    """Name a layout as case ids do, such as `dp:2-tp:2-ep-sp`; `1-rank` for a single rank."""
    sizes = {"dp": layout.dp_size, "pcp": layout.pcp_size, "tp": layout.tp_size}
    sizes |= {"moe_tp": layout.moe_tp_size, "expert_dp": layout.expert_dp_size}
    words = [f"{name}:{size}" for name, size in sizes.items() if size > 1]
    words += ["ep"] * layout.use_ep + ["sp"] * layout.sequence_parallel
    return "-".join(words) or "1-rank"
