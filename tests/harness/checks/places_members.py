"""Right backends that round in different places, each with a row that states it, and wrong ones.

They round by torch's own casts, not by the reference's grids.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import torch
from torch.nn.functional import silu

from moe.experts.base import Experts
from moe.spec import MemberSpec, Needs, Numerics


def row_of(name, **places):
    target = f"tests.harness.checks.places_members:{name}"
    return MemberSpec(name=target, target=target, numerics=Numerics(**places))


class Loop(Experts):
    """One expert after another; a class overrides the steps that it computes otherwise."""

    row = row_of("Loop")

    def prepare_weights(self, weights):
        self.w13, self.w2 = weights.w13, weights.w2

    def rows_of(self, e, routing):
        rows, slots = (routing.topk_ids == e).nonzero(as_tuple=True)
        return rows, slots, routing.topk_weights[rows, slots, None]

    def first(self, x, e):
        return x @ self.w13[e].T

    def activate(self, gate, up):
        return (silu(gate.float()) * up.float()).to(self.dtype)

    def expert(self, x, e, weight):
        gate, up = self.first(x, e).chunk(2, dim=1)
        return (self.activate(gate, up) @ self.w2[e].T).float() * weight

    def terms(self, x, routing):
        """Return what each slot adds, [T, k, K] float32."""
        tokens, slots = routing.topk_ids.shape
        terms = torch.zeros(tokens, slots, x.codes.shape[1])
        for e in range(self.num_local):
            rows, columns, weight = self.rows_of(e, routing)
            terms[rows, columns] = self.expert(x.codes[rows], e, weight).float()
        return terms

    def combine(self, terms, routing):
        return terms.sum(dim=1).to(self.dtype)

    def apply(self, x, routing):
        return self.combine(self.terms(x, routing), routing)


WIDE_SUM = {
    "gemm1": "model",
    "activated_gate": "f32",
    "activation": "model",
    "expert": "model",
    "weighted": "f32",
    "combine": "f32",
    "weight_on": "output",
    "weight_dtype": "f32",
}


class WideSum(Loop):
    """As fused kernels: both products rounded, the rest in float32."""

    row = row_of("WideSum", **WIDE_SUM)


class EveryStep(Loop):
    """A first draft: every step in the layer's dtype, added up expert by expert."""

    row = row_of(
        "EveryStep",
        **dict.fromkeys(("gemm1", "activated_gate", "activation", "expert"), "model"),
        **dict.fromkeys(("weighted", "combine", "weight_dtype"), "model"),
        weight_on="output",
        combine_order="any",
    )

    def apply(self, x, routing):
        out = torch.zeros_like(x.codes)
        for e in range(self.num_local):
            rows, _, weight = self.rows_of(e, routing)
            gate, up = self.first(x.codes[rows], e).chunk(2, dim=1)
            y = (silu(gate) * up) @ self.w2[e].T
            out.index_add_(0, rows, weight.to(y.dtype) * y)
        return out


class WeightBeforeRounding(Loop):
    """The router weight multiplies the second product while it is in float32."""

    row = row_of("WeightBeforeRounding", **{**WIDE_SUM, "expert": "f32", "weighted": "model"})

    def expert(self, x, e, weight):
        gate, up = self.first(x, e).chunk(2, dim=1)
        y = self.activate(gate, up).float() @ self.w2[e].float().T
        return (y * weight).to(self.dtype)


class WeightInside(Loop):
    """The router weight multiplies the intermediate before that is rounded."""

    row = row_of(
        "WeightInside",
        **{**WIDE_SUM, "activation": "f32", "weighted": "model", "weight_on": "intermediate"},
    )

    def expert(self, x, e, weight):
        gate, up = self.first(x, e).chunk(2, dim=1)
        h = silu(gate.float()) * up.float() * weight
        return h.to(self.dtype) @ self.w2[e].T


BY_SLOT = {**WIDE_SUM, "weighted": "model", "combine": "model"}


class SumsBySlot(Loop):
    """Weighted outputs are rounded, and added in the layer's dtype in the order of the slots."""

    row = row_of("SumsBySlot", **BY_SLOT, combine_order="slots")

    def combine(self, terms, routing):
        total = torch.zeros_like(terms[:, 0], dtype=self.dtype)
        for slot in self.order(routing):
            total = total + terms[torch.arange(len(terms)), slot].to(self.dtype)
        return total

    def order(self, routing):
        return torch.arange(routing.topk_ids.shape[1])[:, None].expand(-1, len(routing.topk_ids))


class SumsInAnyOrder(SumsBySlot):
    """As atomic additions: each token has an order of its own, neither of slots nor of experts."""

    row = row_of("SumsInAnyOrder", **BY_SLOT, combine_order="any")

    def order(self, routing):
        by_expert = routing.topk_ids.long().argsort(dim=1)
        turns = torch.arange(len(by_expert))[:, None] + torch.arange(by_expert.shape[1])
        return by_expert.gather(1, turns % by_expert.shape[1]).T


class MoreExact(Loop):
    """Float32 throughout, with the row of a backend that rounds."""

    row = row_of("MoreExact", gemm1="model", activation="model", expert="model")

    def prepare_weights(self, weights):
        self.w13, self.w2 = weights.w13.float(), weights.w2.float()

    def first(self, x, e):
        return x.float() @ self.w13[e].T

    def activate(self, gate, up):
        return silu(gate) * up


class RoundsTheGate(Loop):
    """Rounds SiLU(gate); its row states that it does not."""

    row = row_of("RoundsTheGate", **WIDE_SUM)

    def activate(self, gate, up):
        return silu(gate) * up


class SplitSum(Loop):
    """A part of the second product's sum is rounded before it is added: no place can state that."""

    row = row_of("SplitSum")

    def expert(self, x, e, weight):
        gate, up = self.first(x, e).chunk(2, dim=1)
        h, w2 = self.activate(gate, up), self.w2[e]
        last = h[:, -16:] @ w2[:, -16:].T
        return (h[:, :-16].float() @ w2[:, :-16].float().T + last.float()).to(self.dtype) * weight


class GateAndUpExchanged(Loop):
    row = row_of("GateAndUpExchanged")

    def activate(self, gate, up):
        return super().activate(up, gate)


class Unwritten(Loop):
    row = row_of("Unwritten")

    def combine(self, terms, routing):
        return torch.full_like(terms[:, 0], torch.nan, dtype=self.dtype)


class TakesInt8Only(Loop):
    """Is refused the plainest cases: it needs int8 codes in blocks, which are not padded to sizes.

    Its sizes are multiples of 256.
    """

    row = replace(
        row_of("TakesInt8Only"),
        needs=Needs(
            formats=frozenset({("int8_block", "int8_group")}),
            dequantizes=True,
            hidden_multiple=256,
            shard_multiple=256,
        ),
    )


class Dies(Loop):
    row = row_of("Dies", **WIDE_SUM)

    def apply(self, x, routing):
        os.kill(os.getpid(), signal.SIGSEGV)


class Hangs(Loop):
    row = row_of("Hangs", **WIDE_SUM)

    def apply(self, x, routing):
        while True:
            pass


class Raises(Loop):
    row = row_of("Raises", **WIDE_SUM)

    def apply(self, x, routing):
        raise RuntimeError("no kernel image for these shapes")
