"""Join an all2all backend and an experts backend: prepare, experts, finalize.

`MoEKernel` is for modular backends, `MonolithicKernel` for those that route by themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn.functional import pad

from moe import failed_call, intermediates, micro_batches
from moe.errors import MoEError
from moe.routing import route, to_local_ids, weights_on_input, zeroed_padding
from moe.spec import MODULAR, MONOLITHIC, PaddedSpec
from moe.types import TORCH_DTYPE, Activations, Routing

if TYPE_CHECKING:
    from torch import Tensor

    from moe.all2all.base import PrepareFinalize
    from moe.eplb.slots import Slots
    from moe.experts.base import ExpertsBase
    from moe.quant.base import QuantMethod
    from moe.routers.base import Router
    from moe.routing_method import RoutingMethod
    from moe.types import Dispatched


@dataclass(frozen=True, kw_only=True)
class MoEKernel:
    """Join an all2all backend and a modular experts backend: prepare, experts, finalize."""

    tells_routing: ClassVar[bool] = True  # whether what `route` returns is what was computed

    prepare_finalize: PrepareFinalize
    experts: ExpertsBase
    quant: QuantMethod
    expert_map: Tensor  # [E] int32, global expert id -> local id; -1 = not on this rank
    a1_scale: Tensor | None = None  # [] float32, static scale of the input, if the scheme has one
    # What load balancing changes, of a layer that has it; `expert_map` is then of physical ids.
    slots: Slots | None = None

    def route(
        self, router: Router, method: RoutingMethod, logits: Tensor, bias: Tensor | None
    ) -> Routing:
        """Return what `apply` takes: global ids and weights, [T, k]. logits: [T, E]. bias: [E]."""
        return route(router, method, logits, bias)

    def apply(self, x: Tensor, routing: Routing) -> Tensor:
        """Return [T, K], summed over the gather group. Collective.

        x: [T, K] this rank's tokens in the model dtype. routing: of `route`. If the layer has
        chunks, every rank of the group makes as many calls as the one with the most tokens. What
        fails on this rank is raised when its part in the collectives is done, so that no other rank
        waits: see `moe.failed_call`.
        """
        try:
            return self._chunks(x, self._to_replicas(x, routing))
        except failed_call.EndedError as ended:
            error = ended.error
        raise error  # outside of the handler, which would take the place of its context

    def _to_replicas(self, x: Tensor, routing: Routing) -> Routing:
        """Return the routing with physical experts' ids, if the layer has replicas."""
        if self.slots is None:
            return routing
        try:
            routing = self.slots.replicas.route(routing)
        except Exception as error:
            nowhere = self._nowhere(x, routing.topk_weights.dtype)
            failed_call.take_part(lambda: self._chunks(torch.zeros_like(x), nowhere), error)
            raise
        intermediates.keep("replicas", routing.topk_ids, copy=True)
        return routing

    def _chunks(self, x: Tensor, routing: Routing) -> Tensor:
        """Return `apply` of tokens that pass in chunks, if the layer has some."""
        size = self.experts.layer_spec.chunk
        if not size:
            return self._apply(x, routing)
        totals = self.prepare_finalize.group.gather_counts(len(x), x.device)
        starts = range(0, max(1, *totals), size)
        counts = [[min(max(total - start, 0), size) for total in totals] for start in starts]
        outputs, parts, errors = [], [], []
        for start in starts:
            rows = slice(start, start + size)
            with intermediates.recording_part() as stages:
                try:
                    outputs.append(self._apply(x[rows], _rows(routing, rows)))
                except failed_call.EndedError as ended:  # other ranks come with the later chunks
                    errors.append(ended)
            parts.append(stages)
        if errors:
            raise errors[0]
        intermediates.keep_joined(parts, counts)
        return torch.cat(outputs)

    def apply_to_nothing(self, x: Tensor, logits_dtype: torch.dtype) -> None:
        """Take part in `apply` with tokens that need no expert, in place of x [..., C]. Collective.

        logits_dtype: of the layer's router logits, which travel if the backend routes by itself.
        """
        spec = self.experts.layer_spec
        columns = spec.unpadded_hidden if isinstance(spec, PaddedSpec) else spec.hidden
        empty = failed_call.empty_tokens(spec, x, columns=columns)
        self.apply(empty, self._nowhere(empty, logits_dtype))

    def _nowhere(self, x: Tensor, logits_dtype: torch.dtype) -> Routing:
        """Return what `route` returns for tokens x, [T, K], none of which needs an expert."""
        del logits_dtype
        return failed_call.routed_nowhere(self.experts.layer_spec, x)

    def _apply(self, x: Tensor, routing: Routing) -> Tensor:
        """Return `apply` of tokens that pass at once. Raises EndedError for errors of this rank."""
        try:
            sent, travels = self._to_send(x, routing)
        except Exception as error:
            failed_call.take_part(lambda: self._exchange(*self._nothing_to_send(x, routing)), error)
            raise failed_call.EndedError(error) from error
        return self._exchange(sent, travels)

    def _to_send(self, x: Tensor, routing: Routing) -> tuple[Activations, Routing]:
        """Return the tokens x, [T, K], and their routing as they are sent."""
        x = _with_zeros(x, self.experts.layer_spec.hidden)
        if self.tells_routing and self.experts.layer_spec.weights_input:
            x, routing = weights_on_input(x, routing)
        early = self.quant.input_scale_is_local
        return (self.quant.quantize_input(x, self.a1_scale) if early else _plain(x)), routing

    def _nothing_to_send(self, x: Tensor, routing: Routing) -> tuple[Activations, Routing]:
        """Return `_to_send` of as many tokens that need no expert."""
        empty = torch.zeros_like(x)
        return self._to_send(empty, self._nowhere(empty, routing.topk_weights.dtype))

    def _exchange(self, sent: Activations, routing: Routing) -> Tensor:
        """Return the sums [T, K] of this rank's tokens, and compute those of the other ranks."""
        dispatched = self.prepare_finalize.prepare(sent, routing)
        micro_batches.switch()
        try:
            if dispatched.error is not None:
                raise dispatched.error
            partial = self._sums(dispatched, is_quantized=self.quant.input_scale_is_local)
        except Exception as error:
            micro_batches.switch()  # the same turns as of a call that succeeds
            self._abandon(dispatched, error)
            micro_batches.switch()
            raise failed_call.EndedError(error) from error
        micro_batches.switch()
        try:
            out = self.prepare_finalize.finalize(partial, dispatched)
        finally:
            micro_batches.switch()
        spec = self.experts.layer_spec
        return out[:, : spec.unpadded_hidden].contiguous() if isinstance(spec, PaddedSpec) else out

    def _sums(self, dispatched: Dispatched, *, is_quantized: bool) -> Tensor:
        """Return the sums over this rank's experts, [G, K], of the rows that arrived."""
        gathered = dispatched.x if is_quantized else self._quantize_gathered(dispatched)
        intermediates.keep("tokens", dispatched.tokens, copy=True)
        intermediates.keep("slots", dispatched.slots, copy=True)
        local = self._local(dispatched.routing)
        intermediates.keep("input", gathered.codes, copy=True)  # experts may overwrite it
        intermediates.keep("input_scale", gathered.block_scale, copy=True)
        partial = self.experts.run(replace(dispatched, x=gathered, routing=local))
        _check_output(self.experts, partial, gathered.shape)
        intermediates.keep("combine", partial, copy=True)  # the sum over ranks may overwrite it
        return partial

    def _abandon(self, dispatched: Dispatched, error: Exception) -> None:
        """Let the other ranks, which wait for this one's sums, end the call."""
        spec = self.experts.layer_spec
        failed_call.take_part(
            lambda: self.prepare_finalize.abandon(dispatched, spec.hidden, TORCH_DTYPE[spec.dtype]),
            error,
        )

    def _local(self, routing: Routing) -> Routing:
        """Return the gathered routing with local ids, and record it."""
        ids = to_local_ids(routing.topk_ids, self.expert_map)
        if self.slots is not None:
            self.slots.load.record(ids)
        # Copies, since experts may overwrite their inputs.
        intermediates.keep("ids", ids, copy=True)
        intermediates.keep("weights", routing.topk_weights, copy=True)
        intermediates.keep("adapters", routing.adapters, copy=True)
        return replace(routing, topk_ids=ids)

    def _quantize_gathered(self, dispatched: Dispatched) -> Activations:
        """Quantize with a scale over all gathered rows; padding rows count as zeros."""
        x = zeroed_padding(dispatched.x.codes, dispatched.routing.topk_ids)
        return self.quant.quantize_input(x, self.a1_scale)


class MonolithicKernel(MoEKernel):
    """Join an all2all backend and a backend that routes by itself: its logits travel as weights."""

    tells_routing: ClassVar[bool] = False

    def route(
        self, router: Router, method: RoutingMethod, logits: Tensor, bias: Tensor | None
    ) -> Routing:
        """Return the logits, for the backend to route by: it has the method and the bias."""
        del router, method, bias
        return Routing.of_logits(logits)

    def _nowhere(self, x: Tensor, logits_dtype: torch.dtype) -> Routing:
        return failed_call.logits_of_nobody(self.experts.layer_spec, x, logits_dtype)

    def _local(self, routing: Routing) -> Routing:
        return routing


# Kind of an experts backend -> class that runs it.
KERNELS = {MODULAR: MoEKernel, MONOLITHIC: MonolithicKernel}


def _rows(routing: Routing, rows: slice) -> Routing:
    """Return the routing of some tokens."""
    return Routing(
        topk_ids=routing.topk_ids[rows],
        topk_weights=routing.topk_weights[rows],
        adapters=None if routing.adapters is None else routing.adapters[rows],
    )


def _check_output(experts: ExpertsBase, partial: Tensor, expected: tuple[int, ...]) -> None:
    """Raise MoEError for an output that is not [T, K], which might later be broadcast."""
    shape = list(partial.shape) if isinstance(partial, torch.Tensor) else type(partial).__name__
    if shape != list(expected):
        name = type(experts).__name__
        raise MoEError(f"{name}.apply returned {shape}; it must return [T, K] = {list(expected)}")


def _with_zeros(x: Tensor, columns: int) -> Tensor:
    """Return x [T, K] with zeros up to this number of columns."""
    return x if x.shape[1] == columns else pad(x, (0, columns - x.shape[1]))


def _plain(x: Tensor) -> Activations:
    """Return x, [T, K], as unquantized activations."""
    return Activations(codes=x)
