"""What the members of one call handed out on one rank, addressed by token and slot."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from harness.fixtures import tensors
from harness.fixtures.expert_ids import global_ids
from moe.reference.formats import spread_groups

if TYPE_CHECKING:
    from torch import Tensor

    from harness.fixtures.layer_call import Call
    from harness.fixtures.layer_under_test import Subject
    from moe.collectives import Group
    from moe.intermediates import Kept


@dataclass(frozen=True, kw_only=True)
class Handed:
    """G gathered rows; a flat row is a gathered row and a slot, g * k + slot."""

    subject: Subject
    call: Call
    rank: int
    ranks: tuple[int, ...]  # of the gather group, in its order
    sizes: tuple[int, ...]  # tokens of each of them
    ids: Tensor  # [G, k] int64 local expert ids, -1 = none
    exact: bool  # every stage of this case is exact: nothing may depart at all

    @property
    def group(self) -> Group:
        return self.subject.layer.groups.gather

    @property
    def stages(self) -> dict[str, Kept]:
        return self.call.stages

    @property
    def top_k(self) -> int:
        """Slots of a gathered row."""
        return self.ids.shape[1]

    @property
    def by_token(self) -> bool:
        """Whether a gathered row has all slots of its token; an all2all may give each its own."""
        return self.top_k == self.call.output.routing.topk_ids.shape[1]

    def has(self, *names: str) -> bool:
        return all(name in self.call.stages for name in names)

    def global_ids(self, local: Tensor) -> Tensor:
        """Ids beyond this rank's experts count on into the next rank's."""
        return global_ids(local, self.subject.case.problem, self.rank)

    @cached_property
    def sent(self) -> Tensor:
        """[sum of sizes, K] the tokens of all ranks of the group, made anew: no word is taken."""
        case, call, layout = self.subject.case, self.call, self.subject.case.layout
        owners = {r: layout.dp_rank(r) for r in self.ranks}
        made = {
            d: tensors.tokens(case, d, call.counts[d], call.tokens.x.device, call.start).x
            for d in set(owners.values())
        }
        held = {r: layout.tokens_of(r, call.counts) for r in self.ranks}
        return torch.cat([made[owners[r]][held[r].start : held[r].stop] for r in self.ranks])

    def rows(self, stage: str, flat: Tensor) -> Tensor:
        """[r, C] float32 a stage's values at these flat rows; NaN where it has none."""
        kept = self.stages[stage]
        if kept.rows is None:
            _check_rows(stage, len(kept.value), flat)
            return _taken(kept.value, flat)
        if len(kept.rows) != len(kept.value):
            counts = f"{len(kept.value)} rows and the numbers of {len(kept.rows)}"
            raise ValueError(f"stage {stage} was handed out with {counts}; they must be as many")
        place = torch.full((self.ids.numel(),), -1, dtype=torch.int64, device=flat.device)
        place[kept.rows] = torch.arange(len(kept.rows), device=flat.device)
        at = place[flat]
        values = _taken(kept.value, at.clamp(min=0))
        values[at < 0] = torch.nan
        return values

    def scales(self, stage: str, rows: Tensor, width: int) -> Tensor | None:
        """Of the codes of `input` or `second` in these rows, broadcastable to [r, width].

        None where the member hands out none and it is no calibrated one: then the codes say
        nothing of the values.
        """
        name, fmt = f"{stage}_scale", self.subject.reference.act_format
        if name in self.stages:
            held = self.stages[name].value
            if fmt.has_one_scale and held.numel() == 1:
                return held.float()
            each = self.rows(name, rows).reshape(len(rows), -1)
            return spread(each, width, (fmt.block or (None, None))[1])
        if fmt.grid == "model":
            return torch.ones((), device=rows.device)
        return self.subject.scales["a1_scale" if stage == "input" else "a2_scale"]

    def dequantized(self, stage: str, rows: Tensor) -> Tensor | None:
        """[r, C] float32 the values of `input` (gathered rows) or `second` (flat rows)."""
        codes = self.rows(stage, rows)
        scale = self.scales(stage, rows, codes.shape[1])
        return None if scale is None else codes * scale


def _check_rows(stage: str, count: int, asked: Tensor) -> None:
    most = int(asked.max()) if len(asked) else -1
    if most >= count:
        raise ValueError(
            f"stage {stage} was handed out with {count} rows, and there is a row {most}; hand out "
            "all rows in order, or say with `rows=` which they are (see moe.intermediates)"
        )


def _taken(value: Tensor, rows: Tensor) -> Tensor:
    """value[rows] in float32; one-byte formats as bytes, since not every device can index them."""
    if value.dtype.itemsize > 1:
        return value[rows].float()
    return value.view(torch.uint8)[rows].view(value.dtype).float()


def spread(scale: Tensor, width: int, group: int | None) -> Tensor:
    """[r, 1] or [r, groups] -> broadcastable to [r, width]."""
    return scale if group is None else spread_groups(scale, width, group)


def handed_out(subject: Subject, call: Call, rank: int, *, exact: bool) -> Handed:
    layout = subject.case.layout
    ranks = layout.group("gather", rank)
    return Handed(
        subject=subject,
        call=call,
        rank=rank,
        ranks=ranks,
        sizes=tuple(len(layout.tokens_of(r, call.counts)) for r in ranks),
        ids=call.stages["ids"].value.long(),
        exact=exact,
    )
