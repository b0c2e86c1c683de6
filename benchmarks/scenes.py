"""Right answers of small layers without running one: what the evidence's tables start from.

The reference works out every rank's share in one process, so a case of several ranks needs none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch

from harness.fixtures import counter_hash, tensors
from harness.fixtures.layer_call import Call, JudgedOutput
from harness.fixtures.layer_under_test import IDEAL, _static_scales
from harness.fixtures.rank_context import RankContext
from harness.mutants.sample import Scene, scene_of
from moe.experts import EXPERTS
from moe.reference import routing
from moe.reference.layer import BaselineSiluAndMul
from moe.spec import Scheme
from moe.types import TORCH_DTYPE, Routing

if TYPE_CHECKING:
    from torch import Tensor

    from harness.fixtures.layer_under_test import Scales
    from harness.matrix.case import MoETestConfig
    from moe.reference.result import Answer

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a layer is given. sizes: the standard deviations of a published recipe, or None for
    the inputs of this project; output: the rms that the second matrix is scaled for, or None.
    """

    tokens: float | None = None
    weights: float | None = None
    output: float | None = None

    def expert(self, case: MoETestConfig, e: int | str) -> tuple[Tensor, Tensor]:
        """(w13 [2N, K], w2 [K, N]) of one expert in the model dtype."""
        if self.weights is None:
            w13, w2 = tensors.expert_weights(case, e, CPU)
            return w13, (w2.float() * self.output).to(w2.dtype) if self.output else w2
        n = case.n * case.shared_experts if e == "shared" else case.n
        rows = torch.arange(2 * n), torch.arange(case.k)
        w13 = counter_hash.normal(case.seed, f"w13.{e}", rows[0], case.k) * self.weights
        w2 = counter_hash.normal(case.seed, f"w2.{e}", rows[1], n) * self.weights
        dtype = TORCH_DTYPE[case.dtype]
        return w13.to(dtype), w2.to(dtype)

    def batch(self, case: MoETestConfig) -> tensors.Tokens:
        """The first rank's tokens."""
        own = tensors.tokens(case, 0, case.m, CPU)
        if self.tokens is None:
            return own
        x = counter_hash.normal(case.seed, "x", torch.arange(case.m), case.k) * self.tokens
        logits = counter_hash.normal(case.seed, "logits", torch.arange(case.m), case.num_experts)
        dtype = TORCH_DTYPE[case.dtype]
        return tensors.Tokens(x=x.to(dtype), logits=logits.to(dtype), index=own.index)


@dataclass(frozen=True, kw_only=True)
class Right:
    """A right answer. call: as a layer would have made it, its output rounded once."""

    call: Call
    scene: Scene
    reference: BaselineSiluAndMul

    @property
    def answer(self) -> Answer:
        return self.call.answer


def right(case: MoETestConfig, data: Data) -> Right:
    """The reference's own output for the first rank's tokens, in the model dtype."""
    layer_spec = case.layer_spec
    shared = data.expert(case, "shared") if case.shared_experts else None

    @cache
    def expert(e: int) -> tuple[Tensor, Tensor]:
        return data.expert(case, e)

    numerics = EXPERTS.row(case.experts).numerics_for(layer_spec.scheme, "cuda")
    reference = BaselineSiluAndMul(layer_spec, numerics, expert, shared)
    tokens = data.batch(case)
    ids = routing.choose(tokens.logits, case.top_k, case.router)
    weights = routing.weights(tokens.logits, ids, renormalize=case.renormalize, router=case.router)
    keep = torch.arange(min(case.m, 16))
    answer = reference(tokens.x, ids, weights, keep=keep, **_scales(case, reference))
    out = answer.out.to(TORCH_DTYPE[case.dtype])
    call = Call(
        number=0,
        counts=case.counts,
        tokens=tokens,
        output=JudgedOutput(out=out, routing=Routing(topk_ids=ids, topk_weights=weights)),
        answer=answer,
        stages={},
        broken=(),
    )
    scene = scene_of(case, 0, call, reference)
    return Right(call=call, scene=scene, reference=reference)


def _scales(case: MoETestConfig, reference: BaselineSiluAndMul) -> Scales:
    """Calibrated scales of a static scheme, else None."""
    context = RankContext(rank=0, world_size=case.world_size, device=CPU, transport="gloo")
    plain = Scheme(weights="model", activations="model")
    layer_spec = case.replace(quant="none").layer_spec
    assert layer_spec.scheme == plain, "the ideal layer is that without quantization"
    ideal = BaselineSiluAndMul(layer_spec, IDEAL, reference._expert, reference._shared)
    return _static_scales(case, context, ideal)
