"""Compose a layer from its members: router, all2all backend, experts backend, shared experts.

`FusedMoE` is the layer of one rank; its `MoEKernel` joins an all2all and an experts backend.
`build` looks up the members by name, checks that they support the layer (`check`), and creates
them; no other code does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from moe import failed_call, families, intermediates, side_stream
from moe.adapters import check_adapters, check_choice
from moe.all2all import ALL2ALL
from moe.all2all.make import make_prepare_finalize
from moe.eplb.slots import Slots
from moe.errors import RefusedError
from moe.experts import EXPERTS
from moe.experts.base import check_set_up
from moe.latent import LatentProjections, check_projections
from moe.layer_inputs import check_tokens
from moe.moe_kernel import KERNELS as KERNELS
from moe.moe_kernel import MoEKernel as MoEKernel
from moe.moe_kernel import MonolithicKernel as MonolithicKernel
from moe.platforms import platform as platform_named
from moe.platforms.detect import devices, platform_of
from moe.quant import QUANT
from moe.quant.check_weights import check_weights
from moe.routers import ROUTERS
from moe.routing import NO_WEIGHTS, RouterWeights, without_padding
from moe.shared import FusedShared, SharedExperts
from moe.spec import (
    Needs,
    all2all_refusal,
    dispatch_refusal,
    experts_refusal,
    first_refusal,
)
from moe.types import TORCH_DTYPE, Entered
from moe.zero_experts import with_zero_experts

if TYPE_CHECKING:
    from torch import Tensor

    from moe.adapters import Adapters
    from moe.collectives import Groups
    from moe.experts.base import ExpertsBase
    from moe.routers.base import Router
    from moe.spec import LayerSpec, MemberSpec, Platform
    from moe.types import ExpertWeights, Routing


@dataclass(frozen=True, kw_only=True)
class Output:
    """Hold a layer's output. out: [T, K] model dtype.

    routing: [T, k], global ids, as sent to the experts: with a slot for each fused shared expert.
    It is None if a monolithic backend made it, which does not tell.
    """

    out: Tensor
    routing: Routing | None


@dataclass(frozen=True, kw_only=True)
class FusedMoE:
    """Compute the layer on one rank."""

    layer_spec: LayerSpec
    router: Router
    kernel: MoEKernel
    groups: Groups
    shared: SharedExperts | FusedShared | None
    members: dict[str, str]  # family -> name of the class that was created
    router_weights: RouterWeights = NO_WEIGHTS
    latent: LatentProjections | None = None

    def forward(
        self,
        x: Tensor,
        logits: Tensor | None = None,
        *,
        is_padding: Tensor | None = None,
        adapters: Tensor | None = None,
    ) -> Output:
        """Return the output and routing of this rank's tokens. Collective.

        x: [T, K] in the model dtype; T may be 0. logits: [T, E]; not read if the layer has a gate.
        is_padding: [T] bool, rows that no expert computes and whose output is undefined; or None.
        adapters: [T] int32, the number of each token's low-rank adapter, -1 = none; None if the
        layer has none.
        Raises MoEError for other shapes or dtypes. What fails on one rank is raised there when its
        part in the collectives is done: no other rank waits (see `moe.failed_call`).
        """
        try:
            entered = self._enter(x, logits, is_padding, adapters)
        except Exception as error:
            self._take_part(x, logits, error)
            raise
        out = self._summed(x, entered)
        if self.layer_spec.zero_experts:
            out = with_zero_experts(out, x, entered.routing, self.layer_spec.num_experts)
        intermediates.keep("out", out, copy=True)  # a member may reuse the buffer
        published = entered.routing if self.kernel.tells_routing else None
        return Output(out=out, routing=published)

    def _enter(
        self, x: Tensor, logits: Tensor | None, is_padding: Tensor | None, adapters: Tensor | None
    ) -> Entered:
        """Return what the experts get of `forward`'s tokens. No collective."""
        check_tokens(self.layer_spec, x, logits, is_padding)
        check_choice(self.layer_spec, len(x), adapters)
        method = self.layer_spec.routing_method
        scored = self.router_weights.logits(x, logits, method)
        routing = self.kernel.route(self.router, method, scored, self.router_weights.bias)
        if isinstance(self.shared, FusedShared):
            routing = self.shared.add_to(x, routing)
        routing = replace(without_padding(routing, is_padding), adapters=adapters)
        if self.kernel.tells_routing:
            intermediates.keep("chosen", routing.topk_ids, copy=True)
            intermediates.keep("router", routing.topk_weights, copy=True)
        dense = self.shared if isinstance(self.shared, SharedExperts) else None
        pending = None
        if dense is not None:
            pending = side_stream.start(dense.forward, dense.seen(x, is_padding))
        entered = x if self.latent is None else self.latent.enter(x)
        if self.latent is not None:
            intermediates.keep("latent", entered, copy=True)
        return Entered(x=entered, routing=routing, shared=pending)

    def _take_part(self, x: Tensor, logits: Tensor | None, error: Exception) -> None:
        """Take part in the collectives of a call that failed before the first one."""
        dtype = TORCH_DTYPE.get(self.layer_spec.routing_method.logits_dtype, x.dtype)
        dtype = dtype if logits is None else logits.dtype
        failed_call.take_part(lambda: self.kernel.apply_to_nothing(x, dtype), error)
        self._end_sum(x, error)

    def _end_sum(self, x: Tensor, error: Exception) -> None:
        """Take part in the sum over the TP ranks with NaN, in place of a call that failed."""
        unknown = failed_call.unknown_sums(self.layer_spec, x)
        failed_call.take_part(lambda: self._over_tp(unknown), error)

    def _summed(self, x: Tensor, entered: Entered) -> Tensor:
        """Return the layer's sums over all ranks, [T, K]."""
        try:
            out = self._routed(entered)
            if entered.shared is not None:
                shared = entered.shared()
                intermediates.keep("shared", shared)
                out = out + shared
        except Exception as error:
            self._end_sum(x, error)
            raise
        return self._over_tp(out)

    def _over_tp(self, out: Tensor) -> Tensor:
        """Return the sum over the TP ranks, [T, K], unless these have different tokens."""
        return out if self.layer_spec.layout.sequence_parallel else self.groups.tp.all_reduce(out)

    def _routed(self, entered: Entered) -> Tensor:
        """Return what the routed experts add, [T, K]; of one TP rank, unless tokens are split."""
        out = self.kernel.apply(entered.x, entered.routing)
        intermediates.keep("finalize", out, copy=True)
        if self.latent is None:
            return out
        out = self.latent.leave(out)
        intermediates.keep("restored", out, copy=True)
        return out


@dataclass(frozen=True, kw_only=True)
class Members:
    """Name the members from which a layer is built."""

    experts: str
    all2all: str
    quant: str


_REFUSALS = {"experts": experts_refusal, "all2all": all2all_refusal}


def check(layer_spec: LayerSpec, platform: Platform, members: Members) -> None:
    """Raise RefusedError with the reason of the first member that refuses the layer."""
    for family, table in families.tables(families.MEMBERS):
        row = table.row(getattr(members, family))
        refusal = _REFUSALS.get(family, Needs.refusal)
        reason = refusal(row.needs, layer_spec, platform)
        if reason is not None:
            raise RefusedError(row.name, reason)
    reason = first_refusal(ROUTERS.row(layer_spec.router).asked(platform), layer_spec)
    if reason is not None:
        raise RefusedError(layer_spec.router, reason)
    reason = dispatch_refusal(EXPERTS.row(members.experts), ALL2ALL.row(members.all2all))
    if reason is not None:
        raise RefusedError(members.experts, reason)


def build(
    layer_spec: LayerSpec,
    rank: int,
    groups: Groups,
    members: Members,
    weights: ExpertWeights,
    shared: SharedExperts | FusedShared | None = None,
    *,
    platform: Platform | None = None,
    router_weights: RouterWeights = NO_WEIGHTS,
    latent: LatentProjections | None = None,
    adapters: Adapters | None = None,
) -> FusedMoE:
    """Return the layer of `rank`. weights: the rank's own shard, see `expert_shards`.

    platform: where the layer will run; raises RefusedError if a member refuses the layer there.
    None skips this check, for layers that a plan has checked. latent: if the layer has a latent
    width; raises MoEError for projections that do not fit the layer. adapters: the rank's own share
    (see `shard_adapters`), if the layer has some; raises MoEError for another share.
    """
    check_projections(layer_spec, latent)
    check_adapters(layer_spec, rank, adapters)
    if platform is not None:
        check(layer_spec, platform, members)
    check_weights(weights, layer_spec.scheme)
    quant = QUANT.load(members.quant)()
    row = EXPERTS.row(members.experts)
    layer_spec = quant.maybe_roundup_sizes(layer_spec, row.needs, _features(row, weights.w13))
    seen = layer_spec.for_experts()
    weights = quant.pad(weights, seen.hidden, seen.shard_sizes[rank])
    numerics = row.numerics_for(layer_spec.scheme, weights.w13.device.type)
    experts = EXPERTS.load(members.experts)(seen, rank, numerics, quant)
    check_set_up(experts)
    experts.router_bias = router_weights.bias
    experts.prepare_weights(weights)
    experts.use_adapters(adapters)
    prepare_finalize = make_prepare_finalize(members.all2all, layer_spec, rank, groups.gather)
    kernel = KERNELS[row.kind](
        prepare_finalize=prepare_finalize,
        experts=experts,
        quant=quant,
        expert_map=_expert_map(layer_spec, rank, weights.w13.device),
        a1_scale=weights.a1_scale,
        slots=_slots(layer_spec, rank, experts, weights.w13.device),
    )
    router = ROUTERS.load(layer_spec.router)()
    routes = router if kernel.tells_routing else experts
    served = {"experts": experts, "all2all": prepare_finalize, "quant": quant, "router": routes}
    names = {family: type(member).__qualname__ for family, member in served.items()}
    parts = {"router": router, "kernel": kernel, "groups": groups, "shared": shared}
    parts |= {"router_weights": router_weights, "latent": latent}
    return FusedMoE(layer_spec=layer_spec, members=names, **parts)


def _features(row: MemberSpec, w: Tensor) -> frozenset[str]:
    """Return the features of the platform of w's device, if the row's alignments depend on it."""
    if not row.needs.alignments:
        return frozenset()
    return (platform_of(devices()) if w.is_cuda else platform_named("cpu")).features


def _expert_map(layer_spec: LayerSpec, rank: int, device: torch.device) -> Tensor:
    """Return the local id of each global expert, [E] int32; -1 = not on this rank.

    With load balancing it is that of each physical expert, [P], which never changes.
    """
    placement, ep_rank = layer_spec.placement, layer_spec.layout.ep_rank(rank)
    local = (placement.local_ids if layer_spec.is_balanced else placement.expert_map)(ep_rank)
    return torch.tensor(local, dtype=torch.int32, device=device)


def _slots(
    layer_spec: LayerSpec, rank: int, experts: ExpertsBase, device: torch.device
) -> Slots | None:
    """Return what load balancing changes in a rank's experts, or None for a layer without it."""
    if not layer_spec.is_balanced:
        return None
    ep_rank = layer_spec.layout.ep_rank(rank)
    placement, window = layer_spec.placement, layer_spec.eplb_window
    return Slots.of(placement, ep_rank, experts.expert_tensors, window=window, device=device)
