"""Right experts backends that differ in where they round, and what their rows say of it."""

from __future__ import annotations

import torch
from torch.nn.functional import silu

from moe.experts.base import Experts
from moe.layers.base import LayerSubject
from moe.spec import MemberSpec, Needs, Numerics

HERE = "tests.harness.checks.rounding_members"
# After the second product: rounded once, at the end.
LATE = {"expert": "f32", "weighted": "f32", "combine": "f32", "weight_dtype": "f32"}
EVERY_STEP = {"gemm1": "model", "activated_gate": "model", "activation": "model"}


def _row(name: str, **stated: str) -> MemberSpec:
    return MemberSpec(
        name=name,
        target=f"{HERE}:{name}",
        needs=Needs(dtypes=frozenset({"bf16"})),
        numerics=Numerics(**stated),
    )


class EveryStep(Experts):
    """In bf16 throughout, as a first draft in torch is; the row states nothing."""

    row = _row("EveryStep")
    late = torch.bfloat16  # dtype after the second product

    def prepare_weights(self, weights):
        self.w13, self.w2 = weights.w13, weights.w2

    def first(self, x, w):
        return x @ w.T

    def between(self, gate, up, weight):
        """Return the intermediate; weight: the router weights [R, 1]."""
        return silu(gate) * up

    def weighted(self, y, weight):
        return weight.to(y.dtype) * y

    def apply(self, x, routing):
        out = torch.zeros_like(x.codes, dtype=self.late)
        for e in range(self.num_local):
            rows, slots = (routing.topk_ids == e).nonzero(as_tuple=True)
            weight = routing.topk_weights[rows, slots, None]
            gate, up = self.first(x.codes[rows], self.w13[e]).chunk(2, dim=1)
            h = self.between(gate, up, weight)
            y = h.to(self.late) @ self.w2[e].to(self.late).T
            out.index_add_(0, rows, self.weighted(y, weight).to(self.late))
        return out.to(self.dtype)


class WideSilu(EveryStep):
    """SiLU and its product with up in float32, rounded once."""

    row = _row("WideSilu")

    def between(self, gate, up, weight):
        return (silu(gate.float()) * up.float()).to(gate.dtype)


class WeightInside(EveryStep):
    """The router weight multiplies the intermediate in float32, before it is rounded."""

    row = _row("WeightInside", expert="f32", combine="f32")
    late = torch.float32

    def first(self, x, w):
        return (x @ w.T).float()

    def between(self, gate, up, weight):
        return (silu(gate) * up * weight).to(self.dtype)

    def weighted(self, y, weight):
        return y


class Float32(EveryStep):
    """Everything in float32."""

    row = _row("Float32", **LATE)
    late = torch.float32

    def first(self, x, w):
        return x.float() @ w.float().T


class TooExact(Float32):
    """The same with a row that was copied from another backend."""

    row = _row("TooExact", **EVERY_STEP, **LATE, weight_on="output")


class EarlySteps(EveryStep):
    """In bf16 before the second product, and in float32 after it."""

    row = _row("EarlySteps", **LATE)
    late = torch.float32


class HiddenStep(EarlySteps):
    """The same, with a row that knows of no rounding of SiLU(gate)."""

    row = _row("HiddenStep", **{**EVERY_STEP, "activated_gate": "f32"}, **LATE, weight_on="output")


class PartlyStated(EarlySteps):
    """States what it knows, and leaves the rest open."""

    row = _row("PartlyStated", gemm1="model", activation="model", **LATE)


class TwoMinds(EarlySteps):
    """Rounds before the second product in calls with an even number of tokens only."""

    row = _row("TwoMinds", **LATE)

    def apply(self, x, routing):
        self.is_exact = len(x.codes) % 2 == 1
        return super().apply(x, routing)

    def first(self, x, w):
        return x.float() @ w.float().T if self.is_exact else x @ w.T


class LateSlot(EveryStep):
    """Wrong: a few percent of the experts' outputs are missing; nothing is stated."""

    row = _row("LateSlot")

    def weighted(self, y, weight):
        return super().weighted(y, weight) * 0.97


class OneRank(LayerSubject):
    """Computes every expert on each rank for its own tokens: rank 0 in bf16, rank 1 in float32."""

    numerics = Numerics(**LATE, reduction="f32")
    takes = frozenset({"dp"})
    takes_logits = True

    def load(self, checkpoint):
        self.mlps = [checkpoint.expert(e) for e in range(self.layer_spec.num_experts)]

    def forward(self, x, logits):
        weights, ids = logits.float().softmax(dim=1).topk(self.layer_spec.top_k, dim=1)
        weights = weights / weights.sum(dim=1, keepdim=True)
        dtype = torch.bfloat16 if self.rank == 0 else torch.float32
        out = torch.zeros(x.shape)
        for e, mlp in enumerate(self.mlps):
            rows, slots = (ids == e).nonzero(as_tuple=True)
            own = x[rows].to(dtype)
            h = silu(own @ mlp.gate.to(dtype).T) * (own @ mlp.up.to(dtype).T)
            y = h.float() @ mlp.down.float().T
            out.index_add_(0, rows, weights[rows, slots, None] * y)
        return out.to(x.dtype)
