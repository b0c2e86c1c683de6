"""Whole layers for `--layer`: right ones, and the same with one mistake each."""

from __future__ import annotations

import dataclasses

import torch
import torch.distributed as dist
from torch.nn.functional import silu

from moe import intermediates
from moe.layer import Output
from moe.layers.base import LayerSubject
from moe.spec import Needs, Numerics
from moe.types import Routing


class Right(LayerSubject):
    """Its own gate, softmax top-k, SwiGLU over its experts, and sum over all ranks."""

    takes = frozenset({"tp", "ep", "shared", "no_renorm"})
    deterministic = True

    def load(self, checkpoint):
        layer_spec, layout = self.layer_spec, self.layer_spec.layout
        self.gate = checkpoint.gate_weight
        self.columns = slice_of(layout.intermediate_of(self.rank, layer_spec.intermediate))
        self.here = self.experts_here()
        self.experts = {e: self.weights(checkpoint.expert(e)) for e in self.here}
        self.shared = checkpoint.shared if self.rank == 0 else None

    def experts_here(self):
        return self.layer_spec.experts_of(self.rank)

    def weights(self, mlp):
        gate, up, down = (t.float() for t in (mlp.gate, mlp.up, mlp.down))
        return gate[self.columns], up[self.columns], down[:, self.columns]

    def route(self, x):
        probs = torch.softmax((x @ self.gate.T).float(), dim=-1)
        weights, ids = probs.topk(self.layer_spec.top_k, dim=-1)
        if self.layer_spec.renormalize:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights, ids

    def expert(self, x, mlp):
        gate, up, down = mlp
        return (silu(x @ gate.T) * (x @ up.T)) @ down.T

    def experts_sum(self, x, weights, ids):
        out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
        for e, mlp in self.experts.items():
            rows, slots = (ids == e).nonzero(as_tuple=True)
            out.index_add_(0, rows, weights[rows, slots, None] * self.expert(x[rows].float(), mlp))
        return out

    def add_shared(self, x, out):
        if self.shared is None:
            return out
        mlp = (self.shared.gate.float(), self.shared.up.float(), self.shared.down.float())
        return out + self.expert(x.float(), mlp)

    def reduce(self, out):
        if self.layer_spec.layout.world_size > 1:
            dist.all_reduce(out)
        return out

    def forward(self, x):
        weights, ids = self.route(x)
        out = self.add_shared(x, self.experts_sum(x, weights, ids))
        return self.reduce(out).to(x.dtype)


def slice_of(columns: range) -> slice:
    return slice(columns.start, columns.stop)


class OnLogits(Right):
    """Has no gate, and returns its routing."""

    takes_logits = True

    def forward(self, x, logits):
        self.gate = torch.eye(logits.shape[1], dtype=logits.dtype)
        weights, ids = self.route(logits)
        out = self.reduce(self.add_shared(x, self.experts_sum(x, weights, ids)))
        routing = Routing(topk_ids=ids.int(), topk_weights=weights)
        return Output(out=out.to(x.dtype), routing=routing)


class HandsOut(Right):
    """Returns its routing, and hands out its stages up to the combination."""

    takes = frozenset({"tp", "ep"})

    def first_product(self, x, mlp):
        return torch.cat([x @ mlp[0].T, x @ mlp[1].T], dim=1)

    def forward(self, x):
        weights, ids = self.route(x)
        local = torch.full_like(ids, -1)
        for place, e in enumerate(self.here):
            local[ids == e] = place
        for name, value in (("ids", local), ("weights", weights), ("input", x)):
            intermediates.keep(name, value)
        rows = x.float().repeat_interleave(ids.shape[1], dim=0)
        gemm1 = torch.zeros(len(rows), 2 * (self.columns.stop - self.columns.start))
        gemm2 = torch.zeros(len(rows), x.shape[1])
        for e, mlp in self.experts.items():
            at = (ids.flatten() == e).nonzero().flatten()
            gemm1[at] = self.first_product(rows[at], mlp)
        gate, up = gemm1.chunk(2, dim=1)
        activation = silu(gate) * up
        for e, mlp in self.experts.items():
            at = (ids.flatten() == e).nonzero().flatten()
            gemm2[at] = activation[at] @ mlp[2].T
        for name, value in (("gemm1", gemm1), ("activation", activation), ("gemm2", gemm2)):
            intermediates.keep(name, value)
        out = (gemm2.view(*ids.shape, -1) * weights[..., None]).sum(dim=1)
        out = self.reduce(out).to(x.dtype)
        return Output(out=out, routing=Routing(topk_ids=ids.int(), topk_weights=weights))


class Gathers(Right):
    """Serves every layout: computes the tokens of all ranks, and takes its own from the sum."""

    takes = frozenset({"dp", "tp", "ep", "sp", "shared", "no_renorm"})

    def forward(self, x):
        group = self.groups.gather
        counts = group.gather_counts(len(x), x.device)
        padded = torch.nn.functional.pad(x, (0, 0, 0, max(counts) - len(x)))
        parts = group.all_gather(padded).view(len(counts), max(counts), -1)
        every = torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])
        start = sum(counts[: group.rank])
        return super().forward(every)[start : start + len(x)]


class GathersAndHandsOutOnRank0(Gathers):
    """Hands out routing and input on rank 0 only; its output is right."""

    def forward(self, x):
        out = super().forward(x)
        if self.rank:
            return out
        weights, ids = self.route(x)
        for name, value in (("ids", torch.full_like(ids, -1)), ("weights", weights), ("input", x)):
            intermediates.keep(name, value)
        return Output(out=out, routing=Routing(topk_ids=ids.int(), topk_weights=weights))


def on_grid(x: torch.Tensor) -> torch.Tensor:
    """float32 values of e4m3 codes with one scale for 128 columns; the last group may be short."""
    groups = []
    for part in x.float().split(128, dim=1):
        scale = part.abs().amax(dim=1, keepdim=True) * torch.tensor(1 / 448.0)
        scale = torch.where(scale == 0, 1.0, scale)
        groups.append((part / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale)
    return torch.cat(groups, dim=1)


class Fp8Block(Right):
    """Reads codes and block scales, and quantizes both products' inputs by groups of 128."""

    takes = frozenset({"tp", "ep"})
    needs = Needs(formats=frozenset({("model", "model"), ("fp8_block", "fp8_group")}))

    def weights(self, mlp):
        named = ((mlp.gate, mlp.gate_scale), (mlp.up, mlp.up_scale), (mlp.down, mlp.down_scale))
        gate, up, down = (self.values(codes, scale) for codes, scale in named)
        return gate[self.columns], up[self.columns], down[:, self.columns]

    def values(self, codes, scale):
        if scale is None:
            return codes.float()
        wide = scale.repeat_interleave(128, dim=0).repeat_interleave(128, dim=1)
        return codes.float() * wide[: codes.shape[0], : codes.shape[1]]

    def quantized(self, x):
        return on_grid(x) if self.layer_spec.scheme.activations == "fp8_group" else x

    def expert(self, x, mlp):
        gate, up, down = mlp
        x = self.quantized(x)
        return self.quantized(silu(x @ gate.T) * (x @ up.T)) @ down.T


class ForgetsTheCodes(Fp8Block):
    """Leaves activations as they are."""

    def quantized(self, x):
        return x


class ScalesOfGateForUp(Fp8Block):
    def weights(self, mlp):
        return super().weights(dataclasses.replace(mlp, up_scale=mlp.gate_scale))


class SwapsStages(HandsOut):
    """Says that its activation is what it is not."""

    def forward(self, x):
        output = super().forward(x)
        rows = output.routing.topk_ids.numel()
        intermediates.keep("activation", torch.ones(rows, self.layer_spec.intermediate))
        return output


class HandsOutIdsOnly(HandsOut):
    """Keeps its stages without what they were made from."""

    def forward(self, x):
        with intermediates.recording() as kept:
            output = super().forward(x)
        for name in ("ids", "gemm1", "gemm2"):
            intermediates.keep(name, kept[name].value)
        return output


class HandsOutOnRank0(HandsOut):
    """Hands out stages and routing on rank 0 only; its output is right."""

    def forward(self, x):
        output = super().forward(x)
        return output if self.rank == 0 else output.out


class SwapsAndHandsOutOnRank0(HandsOutOnRank0):
    """Its first product is [up; gate] on rank 0, the only one that hands out stages."""

    def first_product(self, x, mlp):
        gate_up = super().first_product(x, mlp)
        return gate_up.roll(gate_up.shape[1] // 2, dims=1) if self.rank == 0 else gate_up


class SumsOnRank0(HandsOut):
    """Hands out the sums before and after its all-reduce on rank 0 only."""

    def reduce(self, out):
        partial, total = out.clone(), super().reduce(out)
        if self.rank == 0:
            for name in ("combine", "finalize"):
                intermediates.keep(name, partial)
            intermediates.keep("out", total.bfloat16())
        return total


class ShortSums(HandsOut):
    """Hands out its sum without the last row; its output is right."""

    def reduce(self, out):
        total = super().reduce(out)
        for name, value in (("combine", out), ("finalize", out), ("out", total[:-1])):
            intermediates.keep(name, value)
        return total


class HidesItsRouting(SwapsStages):
    """Hands out stages, wrong ones, and no routing; its output is right."""

    def forward(self, x):
        return super().forward(x).out


class GateUpSwapped(Right):
    def weights(self, mlp):
        gate, up, down = super().weights(mlp)
        return up, gate, down


class NotRenormalized(Right):
    takes = frozenset({"tp", "ep"})

    def route(self, x):
        return torch.softmax((x @ self.gate.T).float(), dim=-1).topk(self.layer_spec.top_k, dim=-1)


class WrongTopK(Right):
    """Chooses the best and then the ones after the next."""

    def route(self, x):
        probs = torch.softmax((x @ self.gate.T).float(), dim=-1)
        weights, ids = probs.topk(self.layer_spec.top_k + 1, dim=-1)
        keep = [0, *range(2, self.layer_spec.top_k + 1)]
        weights, ids = weights[:, keep], ids[:, keep]
        return weights / weights.sum(dim=-1, keepdim=True), ids


class NoAllReduce(Right):
    def reduce(self, out):
        return out


class ShardOffByOne(Right):
    """Under EP each rank has the experts that stand one after its own."""

    def experts_here(self):
        here = super().experts_here()
        return [(e + 1) % self.layer_spec.num_experts for e in here] if self.rank else here


class SwapsAndHandsOut(HandsOut):
    """Its first product is [up; gate] where a stage says [gate; up]."""

    def first_product(self, x, mlp):
        return torch.cat([x @ mlp[1].T, x @ mlp[0].T], dim=1)


class WrongShape(Right):
    def forward(self, x):
        return super().forward(x)[:, :-1]


class Forgetful(Right):
    """Gives other bits each time, and claims that it does not."""

    calls = 0

    def forward(self, x):
        type(self).calls += 1
        out = super().forward(x)
        return torch.nextafter(out, torch.full_like(out, 9.0)) if self.calls > 2 else out


class Rounds(Right):
    """Rounds after each step, and says so."""

    numerics = Numerics.stated(
        gemm1="model", activation="model", expert="model", accumulation=2.0**-22
    )

    def expert(self, x, mlp):
        gate, up, down = (w.bfloat16() for w in mlp)
        x = x.bfloat16()
        h = (silu((x @ gate.T).float()) * (x @ up.T).float()).bfloat16()
        return (h @ down.T).float()


class ChangesItsWeights(Right):
    """Uses what it was given as scratch, once it has its own copy."""

    def load(self, checkpoint):
        super().load(checkpoint)
        self.gate = self.gate.clone()
        checkpoint.gate_weight.zero_()
        mlp = checkpoint.expert(0)
        for w in (mlp.gate, mlp.up, mlp.down):
            w.zero_()
        shared = checkpoint.shared
        own = dataclasses.replace(
            shared, gate=shared.gate.clone(), up=shared.up.clone(), down=shared.down.clone()
        )
        for w in (shared.gate, shared.up, shared.down):
            w.zero_()
        self.shared = own


class SetsDefaultDtype(Right):
    """Inside a call, as libraries do around a constructor, and does not restore it."""

    def forward(self, x):
        out = super().forward(x)
        torch.set_default_dtype(torch.float64)
        return out


class ScratchesItsCheckpoint(Right):
    """Writes on all tensors of its checkpoint in every call, and computes with copies."""

    def load(self, checkpoint):
        super().load(checkpoint)
        self.gate, self.given = self.gate.clone(), checkpoint

    def forward(self, x):
        mlps = [self.given.expert(e) for e in self.here]
        weights = [w for mlp in mlps for w in (mlp.gate, mlp.up, mlp.down)]
        for w in (self.given.gate_weight, *weights):
            w.fill_(3)
        return super().forward(x)
