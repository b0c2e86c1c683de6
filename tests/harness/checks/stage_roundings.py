"""Right experts backends that round in their own places and hand out their stages."""

from __future__ import annotations

import torch
from torch.nn.functional import silu

from moe import intermediates
from moe.experts.base import Experts
from moe.formats.quant_tensor import spread_scale
from moe.spec import MemberSpec, Needs, Numerics
from tests.harness.checks.stage_faults import one_more
from tests.moe.reference.plain_member import rounds

HERE = "tests.harness.checks.stage_roundings"


def _row(name, formats=("model", "model"), **places):
    return MemberSpec(
        name=name,
        target=f"{HERE}:{name}",
        needs=Needs(dtypes=frozenset({"bf16"}), formats=frozenset({formats}), dequantizes=True),
        numerics=Numerics.stated(accumulation=2.0**-22, **places),
    )


class GateStep(Experts):
    """Rounds SiLU(gate), and each later step."""

    row = _row("GateStep", gemm1="model", activated_gate="model", activation="model")
    fault = ""  # stage in which one element is wrong
    says = None  # where it rounds, if not where its row says

    def prepare_weights(self, weights):
        self.w13, self.w2 = weights.w13, weights.w2

    def planted(self, stage, values):
        return one_more(values) if stage == self.fault else values

    def apply(self, x, routing):
        say = self.says or self.row.numerics
        ids = routing.topk_ids
        picked = [(ids == e).nonzero(as_tuple=True) for e in range(self.num_local)]
        flat = torch.cat([rows * ids.shape[1] + slots for rows, slots in picked])
        weight = torch.cat([routing.topk_weights[pair] for pair in picked])[:, None]
        weight = rounds(weight, say.weight_dtype)
        parts = [
            x.codes[rows].float() @ self.w13[e].float().T for e, (rows, _) in enumerate(picked)
        ]
        both = self.planted("gemm1", rounds(torch.cat(parts), say.gemm1))
        gate, up = both.chunk(2, dim=1)
        h = rounds(rounds(silu(gate), say.activated_gate) * up, say.activation)
        if say.weight_on == "intermediate":
            h = rounds(h * weight, say.weighted)
        h = self.planted("activation", h)
        pieces = h.split([len(rows) for rows, _ in picked])
        y = torch.cat([piece @ self.w2[e].float().T for e, piece in enumerate(pieces)])
        stages = {"gemm1": both, "activation": h, "second": h, **self.last(y, weight)}
        for name, value in stages.items():
            intermediates.keep(name, value, rows=flat)
        out = torch.zeros(x.codes.shape)
        terms = stages.get("weighted", stages.get("gemm2"))
        if say.weight_on == "output" and "gemm2" in stages:
            terms = terms * weight
        return out.index_add_(0, flat // ids.shape[1], terms).to(self.dtype)

    def last(self, y, _weight):
        return {"gemm2": self.planted("gemm2", y)}


class WeightInside(GateStep):
    """The router weight, rounded, multiplies the intermediate before it is rounded."""

    row = _row("WeightInside", weight_on="intermediate", weighted="model", weight_dtype="model")


class WeightedOnly(GateStep):
    """Multiplies by the router weight before it rounds the second product."""

    row = _row("WeightedOnly", weighted="model")

    def last(self, y, weight):
        return {"weighted": self.planted("weighted", rounds(y * weight, "model"))}


class WeightedByRounded(WeightedOnly):
    """The same with a router weight in bf16."""

    row = _row("WeightedByRounded", weighted="model", weight_dtype="model")


class WeightedTwice(WeightedOnly):
    """Rounds the second product, too, before a router weight in bf16, as Marlin's kernels do."""

    row = _row("WeightedTwice", expert="model", weighted="model", weight_dtype="model")

    def last(self, y, weight):
        return super().last(rounds(y, "model"), weight)


class Dequantized(GateStep):
    """Casts the scales of int4 to bf16, and multiplies the codes by them in bf16."""

    row = _row("Dequantized", ("int4_g32", "model"), dequantized="model")

    def prepare_weights(self, weights):
        self.w13, self.w2 = (
            w.format.codec.decode(w.codes).bfloat16() * spread_scale(w).bfloat16()
            for w in (weights.gate_up, weights.down)
        )
