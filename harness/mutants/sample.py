"""Sample rows of one call on one rank, with everything needed to compute a mistake's output.

The self-check asks whether the checks would reject a known mistake; the diagnosis asks which known
mistake gives the actual output. Both use few rows.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from harness.fixtures.expected_answers import placed_reference
from harness.fixtures.layer_call import judged_rows, rows_of
from harness.mutants import FEW
from moe.reference.total import passed_through

if TYPE_CHECKING:
    from torch import Tensor

    from harness.fixtures.layer_call import Call
    from harness.matrix.case import MoETestConfig
    from moe.assumed_numerics import Candidates
    from moe.placement import Placement
    from moe.reference.layer import BaselineSiluAndMul
    from moe.reference.result import Answer


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Hold the sampled rows. Shapes: r rows, k slots, W ranks, K hidden; float32 unless noted."""

    case: MoETestConfig
    rank: int
    tokens: int  # on this rank in this call
    counts: tuple[int, ...]  # tokens of each DP rank in this call
    start: int  # of each DP rank's tokens in this call
    rows: Tensor  # [r] int64, which of this rank's tokens
    x: Tensor  # [r, K] model dtype
    logits: Tensor  # [r, E] model dtype
    topk_ids: Tensor  # [r, k] int32 global ids, the layer's own choice
    topk_weights: Tensor  # [r, k]
    actual: Tensor  # [r, K] model dtype, the layer's output
    answer: Answer  # for these rows; parts is [W, r, k, K]
    reference: BaselineSiluAndMul
    all_rows: Tensor  # [T, K] the reference's output for all of this rank's tokens
    few: int = FEW  # rows for which a mistake inside the experts is computed
    adapters: Tensor | None = None  # [r] int32, each token's low-rank adapter, -1 = none
    # Where experts were, of a layer with load balancing, and where they had been, the latest last.
    placement: Placement | None = None
    earlier: tuple[Placement, ...] = ()
    candidates: Candidates | None = None  # if the row states no numerics: those it may have
    # [r, k] each: the router weights under other roundings, if a layer hides and states none.
    other_weights: tuple[Tensor, ...] = ()
    # Values that several mistakes share, such as an expert's dequantized weights.
    memo: dict[Any, Any] = field(default_factory=dict, repr=False)

    def total(
        self,
        *,
        parts: Tensor | None = None,
        weights: Tensor | None = None,
        shared: Tensor | None = None,
    ) -> Tensor:
        """Return [r, K], the sum over ranks and slots of weight * part, plus the shared experts
        and what zero experts pass on.

        Arguments left out are the reference's; pass zeros to leave a term out.
        """
        assert self.answer.parts is not None, "a scene's answer keeps its parts"
        parts = self.answer.parts if parts is None else parts
        weights = self.topk_weights if weights is None else weights
        shared = self.answer.shared if shared is None else shared
        routed = torch.einsum("wrkh,rk->rh", parts, weights.to(parts.dtype))
        if self.case.zero_experts:
            routed = routed + self.passed(weights)
        return routed if shared is None else routed + shared

    def passed(self, weights: Tensor | None = None) -> Tensor:
        """Return [r, K], what zero experts add, by these router weights [r, k]; None: the right."""
        weights = self.topk_weights if weights is None else weights
        x = self.x.to(self.answer.out.dtype)
        if not self.case.zero_experts:
            return torch.zeros_like(x)
        return passed_through(x, self.topk_ids, weights, self.case.num_experts)

    @property
    def expert_ids(self) -> Tensor:
        """Return [r, k] int32 ids of experts that ranks hold; -1 for zero experts."""
        is_held = self.topk_ids < self.case.layer_spec.held_experts
        return torch.where(is_held, self.topk_ids, -1)

    def few_rows(self) -> Scene:
        """Return the scene with the rows for which a mistake inside the experts is computed."""
        return self.first(self.few)

    def first(self, count: int) -> Scene:
        """Return the scene with at most its first `count` rows."""
        return self._part(slice(0, count))

    def reordered(self, order: Tensor) -> Scene:
        """Return the scene with its rows in this order [r] int64, and nothing computed yet."""
        return dataclasses.replace(self._part(order), memo={})

    def _part(self, part: slice | Tensor) -> Scene:
        names = ("rows", "x", "logits", "topk_ids", "topk_weights", "actual", "adapters")
        known = [name for name in names if getattr(self, name) is not None]
        values = {name: getattr(self, name)[part] for name in known}
        values["other_weights"] = tuple(weights[part] for weights in self.other_weights)
        return dataclasses.replace(self, **values, answer=rows_of(self.answer, part, part))


def scene_of(case: MoETestConfig, rank: int, call: Call, reference: BaselineSiluAndMul) -> Scene:
    """Return a scene of the chosen rows of a call."""
    rows = judged_rows(call.tokens)
    routing = call.output.routing
    return Scene(
        case=case,
        rank=rank,
        tokens=len(call.tokens.x),
        counts=call.counts,
        start=call.start,
        rows=rows,
        x=call.tokens.x[rows],
        logits=call.tokens.logits[rows],
        topk_ids=routing.topk_ids[rows],
        topk_weights=routing.topk_weights[rows],
        adapters=call.tokens.adapters_of(rows),
        actual=call.output.out[rows],
        answer=rows_of(call.answer, rows, slice(None)),
        reference=placed_reference(reference, call.placement),
        placement=call.placement,
        earlier=call.earlier,
        all_rows=call.answer.out,
    )
