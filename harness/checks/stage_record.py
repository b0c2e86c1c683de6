"""Read what the members of one call recorded on one rank, addressed by token and slot."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from harness.fixtures import tensors
from harness.fixtures.expert_ids import global_ids, local_ids
from harness.fixtures.layer_call import chosen_rows
from harness.fixtures.undefined_rows import judged_tokens, padding_of
from moe.reference.formats import spread_groups
from moe.reference.replicas import physical_ids
from moe.spec import resolve

if TYPE_CHECKING:
    from torch import Tensor

    from harness.fixtures.layer_call import Call
    from harness.fixtures.layer_under_test import Subject
    from moe.collectives import Group
    from moe.intermediates import Kept
    from moe.spec import LayerSpec

FEW_ELEMENTS = 2**15  # of a stage between ranks, up to which all rows are judged


@dataclass(frozen=True, kw_only=True)
class Handed:
    """Hold the recorded stages of G gathered rows; flat row g * k + slot is one slot of row g."""

    subject: Subject
    call: Call
    rank: int
    ranks: tuple[int, ...]  # of the gather group, in its order
    sizes: tuple[int, ...]  # tokens of each of them
    ids: Tensor  # [G, k] int64 local expert ids, -1 = none; [0, k] of a member that hides them
    exact: bool  # every stage of this case is exact: all tolerances are 0

    @property
    def group(self) -> Group:
        return self.subject.layer.groups.gather

    @property
    def stages(self) -> dict[str, Kept]:
        return self.call.stages

    @property
    def top_k(self) -> int:
        """Return the number of slots of a gathered row."""
        return self.ids.shape[1]

    @property
    def by_token(self) -> bool:
        """Tell whether a gathered row has all slots of its token, not one row for each slot."""
        return self.top_k == self.top_k_of_tokens

    @property
    def top_k_of_tokens(self) -> int:
        """Return the number of slots of a token."""
        return self.call.output.routing.topk_ids.shape[1]

    def has(self, *names: str) -> bool:
        return all(name in self.call.stages for name in names)

    def global_ids(self, local: Tensor) -> Tensor:
        """Ids beyond this rank's experts count on into the next rank's."""
        return global_ids(local, self.layer_spec, self.rank)

    @cached_property
    def layer_spec(self) -> LayerSpec:
        """Return the layer with its experts where they were in this call."""
        return self.call.layer_spec_of(self.subject.case.layer_spec)

    def sent_ids(self, ids: Tensor) -> Tensor:
        """Return what this rank sends for the logical ids [T, k] of its rows: physical ids."""
        placement = self.call.placement
        return ids if placement is None else physical_ids(ids, placement).to(ids.dtype)

    def local_ids(self, ids: Tensor) -> Tensor:
        """Return this rank's local ids of sent ids [S, k], -1 = on other ranks, or none."""
        spec, ids = self.layer_spec, ids.long()
        if self.call.placement is None:
            return local_ids(ids, spec.experts_of(self.rank), spec.held_experts)
        physical_ids = self.call.placement.physical_of(spec.layout.ep_rank(self.rank))
        return torch.where(
            (ids >= physical_ids.start) & (ids < physical_ids.stop), ids - physical_ids.start, -1
        )

    @cached_property
    def sent(self) -> Tensor:
        """Return [sum of sizes, K], the tokens of all ranks of the group, made from the seed."""
        case, call, layout = self.subject.case, self.call, self.subject.case.layout
        dp_ranks = {rank: layout.dp_rank(rank) for rank in self.ranks}
        device = call.tokens.x.device
        of_rank = {
            dp_rank: tensors.tokens(case, dp_rank, call.counts[dp_rank], device, call.start)
            for dp_rank in set(dp_ranks.values())
        }
        if self.subject.reference.act_format.spans_rows:  # quantized with zeros as padding
            of_rank = {dp_rank: judged_tokens(tokens) for dp_rank, tokens in of_rank.items()}
        tokens_of_rank = {dp_rank: tokens.x for dp_rank, tokens in of_rank.items()}
        row_ranges = {rank: layout.tokens_of(rank, call.counts) for rank in self.ranks}
        return torch.cat(
            [
                tokens_of_rank[dp_ranks[rank]][row_ranges[rank].start : row_ranges[rank].stop]
                for rank in self.ranks
            ]
        )

    def defined(self, rank: int) -> Tensor:
        """Return [r], the rows of a rank whose output is defined, in order."""
        case, counts, layout = self.subject.case, self.call.counts, self.subject.case.layout
        span, dp_rank = layout.tokens_of(rank, counts), layout.dp_rank(rank)
        device = self.ids.device
        is_padding = padding_of(case, dp_rank, counts[dp_rank], device)
        rows = torch.arange(len(span), device=device)
        return rows if is_padding is None else rows[~is_padding[span.start : span.stop]]

    def sampled(self, rank: int) -> Tensor:
        """Return [r], of the rows whose output is defined all if few, else MAX_ROWS, in order."""
        rows = self.defined(rank)
        if len(rows) * self.subject.case.k <= FEW_ELEMENTS:
            return rows
        return rows[chosen_rows(len(rows), rows.device)]

    def rows(self, stage: str, flat: Tensor) -> Tensor:
        """Return [r, C] float32, a stage's values in these flat rows; NaN where it has none."""
        stored = self._decoded(stage)
        if stored.rows is None:
            _check_rows(stage, len(stored.value), flat)
            return _taken(stored.value, flat)
        if len(stored.rows) != len(stored.value):
            counts = f"{len(stored.value)} rows and the numbers of {len(stored.rows)}"
            raise ValueError(f"stage {stage} was recorded with {counts}; these must be equal")
        if len(stored.value) == 0:  # a rank none of whose slots was computed
            shape = (len(flat), *stored.value.shape[1:])
            return torch.full(shape, torch.nan, device=flat.device)
        place = torch.full((self.ids.numel(),), -1, dtype=torch.int64, device=flat.device)
        place[stored.rows] = torch.arange(len(stored.rows), device=flat.device)
        at = place[flat]
        values = _taken(stored.value, at.clamp(min=0))
        values[at < 0] = torch.nan
        return values

    def _decoded(self, stage: str) -> Kept:
        """Return what was recorded, with codes that share a byte as one number for each."""
        stored, fmt = self.stages[stage], self.subject.reference.act_format
        if stage not in ("input", "second") or fmt.packing == 1:
            return stored
        if stored.value.dtype != torch.uint8:  # not codes: such as values that nobody quantized
            return stored
        assert fmt.truth is not None
        return dataclasses.replace(stored, value=resolve(fmt.truth)().decode(stored.value))

    def scales(self, stage: str, rows: Tensor, width: int) -> Tensor | None:
        """Return the scales of `input` or `second` in these rows, broadcastable to [r, width].

        None if the member records no scales, unless one static scale is all there is: the values
        are unknown then. Beside scales of groups, the static one is only the global scale.
        """
        name, fmt = f"{stage}_scale", self.subject.reference.act_format
        if name in self.stages:
            stored_scale = self.stages[name].value
            if fmt.has_one_scale and stored_scale.numel() == 1:
                return stored_scale.float()
            row_scales = self.rows(name, rows)  # [r, ...]; r is 0 where a rank receives nothing
            row_scales = row_scales.reshape(len(rows), math.prod(row_scales.shape[1:]))
            return spread(row_scales, width, (fmt.block or (None, None))[1])
        if fmt.grid == "model":
            return torch.ones((), device=rows.device)
        if not fmt.has_one_scale:
            return None
        return self.subject.scales["a1_scale" if stage == "input" else "a2_scale"]

    def dequantized(self, stage: str, rows: Tensor) -> Tensor | None:
        """Return [r, C] float32, the values of `input` (gathered rows) or `second` (flat rows)."""
        codes = self.rows(stage, rows)
        scale = self.scales(stage, rows, codes.shape[1])
        return None if scale is None else codes * scale


def _check_rows(stage: str, count: int, requested: Tensor) -> None:
    largest = int(requested.max()) if len(requested) else -1
    if largest >= count:
        raise ValueError(
            f"stage {stage} was recorded with {count} rows, but row {largest} exists; record all "
            "rows in order, or pass their numbers as `rows=` (see moe.intermediates)"
        )


def _taken(value: Tensor, rows: Tensor) -> Tensor:
    """Return value[rows] in float32. Index one-byte formats as bytes: some devices require it."""
    if value.dtype.itemsize > 1:
        return value[rows].float()
    return value.view(torch.uint8)[rows].view(value.dtype).float()


def spread(scale: Tensor, width: int, group: int | None) -> Tensor:
    """Return scales [r, 1] or [r, groups] as a tensor broadcastable to [r, width]."""
    return scale if group is None else spread_groups(scale, width, group)


def handed_out(subject: Subject, call: Call, rank: int, *, exact: bool) -> Handed:
    layout = subject.case.layout
    ranks = layout.group("gather", rank)
    hidden = call.tokens.x.new_empty((0, subject.case.top_k), dtype=torch.int64)
    return Handed(
        subject=subject,
        call=call,
        rank=rank,
        ranks=ranks,
        sizes=tuple(len(layout.tokens_of(r, call.counts)) for r in ranks),
        ids=hidden if "ids" not in call.stages else call.stages["ids"].value.long(),
        exact=exact,
    )
