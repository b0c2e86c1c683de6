"""Put each token straight into the memory of the ranks that hold one of its experts.

A kernel of the sender writes codes, scales, ids and weights into rows of the receiver's buffers,
and one of the receiver writes the partial sums back: nobody receives, all ranks only meet. Which
rows are whose is agreed in one of two ways. Without a capacity, ranks tell each other how many rows
they send, and rows lie one after the other. With a capacity of C, each rank has C rows on every
other one, those not in use have -1 as ids, and only the first call waits for the host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from moe.all2all.base import PrepareFinalize
from moe.all2all.peer_memory import PeerPool
from moe.all2all.row_places import one_after_the_other, reserved
from moe.all2all.sizes import exchange
from moe.errors import MoEError
from moe.failed_call import Postponed, filled
from moe.guarded_buffers import is_guarding
from moe.kernels.place import place
from moe.kernels.put import Rows, Targets, number_blocks, put_rows, words_of
from moe.kernels.put_back import WayBack, add_parts, put_back
from moe.types import Dispatched, Routing

if TYPE_CHECKING:
    from torch import Tensor

    from moe.all2all.peer_memory import PeerLease
    from moe.all2all.row_places import Places
    from moe.collectives import Group
    from moe.types import Activations


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """Hold what `finalize` needs. position: [S, T] int32, see `place`. tokens: [G] int32, -1 =
    unused. leases: the buffers of this call, which later ones may use after it.
    """

    places: Places
    numbers: dict[str, Tensor]
    position: Tensor
    tokens: Tensor
    leases: list[PeerLease]


class SymmMem(PrepareFinalize):
    """Send tokens to the ranks of their experts only, quantized, by puts into their memory."""

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self._pool = PeerPool(group)
        self._fixed: dict[tuple[int, int], tuple[int, ...]] = {}  # (T, capacity) -> counts
        self._tables: dict[tuple[Places, torch.device], dict[str, Tensor]] = {}

    def prepare(self, x: Activations, routing: Routing) -> Dispatched:
        """Return the rows that arrived; see the base class.

        Raises MoEError on every rank if one has more tokens than the capacity.
        """
        holders = self.known_holders(x.codes.device).to(torch.uint8)
        own, ids = Postponed(), routing.topk_ids
        position, counts = own.made(lambda: place(ids, holders), lambda: _nowhere(ids, holders))
        places = self._places(x, routing, counts)
        numbers = self._numbers(places, x.codes.device)
        first = sum(places.counts[: self.group.rank])
        leases = self._leases(x, routing, places)
        if is_guarding():  # no rank may write before all have poisoned their buffers
            self._pool.meet(leases["numbers"])
        targets = _targets(leases, places, numbers)
        own.made(
            lambda: put_rows(_rows(x, routing, first), targets, position, counts, holders),
            lambda: put_rows(_no_rows(x, routing, first), targets, position, counts, holders),
        )
        self._pool.meet(leases["numbers"])
        arrived = _arrived(leases["numbers"].tensor, places, routing)
        scale = leases["scale"].tensor[: places.used] if "scale" in leases else x.scale
        return Dispatched(
            x=x.replace(codes=leases["codes"].tensor[: places.used], scale=scale),
            routing=arrived.routing,
            counts=places.counts,
            tokens=arrived.tokens,
            state=Exchange(
                places=places,
                numbers=numbers,
                position=position,
                tokens=arrived.tokens,
                leases=list(leases.values()),
            ),
            error=own.error,
        )

    def _places(self, x: Activations, routing: Routing, counts: Tensor) -> Places:
        """Agree with all ranks on the rows. counts: [S] int32, tokens that go to each."""
        sent = [len(x.codes)] * self.group.size
        if self.capacity is None:
            sent = sent if counts.is_meta else counts.tolist()
            sizes = exchange(
                self.group, x, routing, sent, capacity=self.capacity, experts_of=self.experts_of
            )
            return one_after_the_other(sizes.counts, sizes.rows, self.group.rank)
        key = len(x.codes), self.capacity
        if not _is_captured(x.codes):
            sizes = exchange(self.group, x, routing, sent, self.capacity, self.experts_of)
            self._fixed[key] = sizes.counts
        elif key not in self._fixed:
            raise MoEError(
                f"a CUDA graph is captured of a call of {key[0]} tokens, whose sizes the ranks "
                "have not agreed on: call the layer once with as many tokens before"
            )
        return reserved(self._fixed[key], self.capacity, self.group.rank)

    def _numbers(self, places: Places, device: torch.device) -> dict[str, Tensor]:
        """Return the lists of places as [S] int64 tensors; those of a capacity are kept."""
        names = ("starts", "came", "limits", "returns", "back")
        if self.capacity is None:
            return {n: torch.tensor(getattr(places, n), device=device) for n in names}
        if (places, device) not in self._tables:
            made = {n: torch.tensor(getattr(places, n), device=device) for n in names}
            self._tables[places, device] = made
        return self._tables[places, device]

    def _leases(self, x: Activations, routing: Routing, places: Places) -> dict[str, PeerLease]:
        """Take the buffers of a call, by name; in the dtypes that poison goes by."""
        has_adapters = routing.adapters is not None
        size = number_blocks(places.room, routing.topk_ids.shape[1], has_adapters)["end"]
        device, leases = x.codes.device, {}
        for name, tensor in (("codes", x.codes), ("scale", _row_scales(x))):
            if tensor is not None:
                shape = (places.room, tensor.shape[1])
                leases[name] = self._pool.take(shape, tensor.dtype, device)
        return {**leases, "numbers": self._pool.take((size,), torch.int32, device)}

    def finalize(self, partial: Tensor, dispatched: Dispatched) -> Tensor:
        own, sent = Postponed(), dispatched.state
        places, numbers = sent.places, sent.numbers
        shape = (places.back_room, partial.shape[1])
        lease = self._pool.take(shape, partial.dtype, partial.device)
        if is_guarding():
            self._pool.meet(lease)
        way = WayBack(
            addresses=lease.addresses,
            came=numbers["came"],
            returns=numbers["returns"],
            limits=numbers["limits"],
            longest=max(places.limits),
        )
        own.made(
            lambda: put_back(words_of(partial), sent.tokens, way),
            lambda: put_back(words_of(torch.full_like(partial, torch.nan)), sent.tokens, way),
        )
        for used in sent.leases:
            self._pool.give_back(used)
        self._pool.meet(lease)
        back = lease.tensor
        out = own.made(lambda: add_parts(back, sent.position, numbers["back"]), lambda: back)
        self._pool.give_back(lease)
        own.end()
        return out


@dataclass(frozen=True, kw_only=True)
class _Arrived:
    routing: Routing
    tokens: Tensor


def _rows(x: Activations, routing: Routing, first: int) -> Rows:
    """Return what a rank puts. first: number of its first token."""
    scale, adapters = _row_scales(x), routing.adapters
    return Rows(
        codes=words_of(x.codes),
        scale=None if scale is None else words_of(scale),
        ids=routing.topk_ids.int(),
        weights=routing.topk_weights.float(),
        adapters=None if adapters is None else adapters.int().contiguous(),
        first=first,
    )


def _no_rows(x: Activations, routing: Routing, first: int) -> Rows:
    """Return as many rows that need no expert, in place of those that could not be put."""
    scale, count = _row_scales(x), len(x.codes)
    empty = x.replace(
        codes=filled(x.codes, count), scale=None if scale is None else filled(scale, count)
    )
    nobody = replace(routing, topk_ids=torch.full_like(routing.topk_ids, -1))
    return _rows(empty, nobody, first)


def _nowhere(topk_ids: Tensor, holders: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `place` returns of tokens that go to no rank."""
    shape = len(holders), len(topk_ids)
    position = topk_ids.new_full(shape, -1, dtype=torch.int32)
    return position, topk_ids.new_zeros(len(holders), dtype=torch.int32)


def _targets(leases: dict[str, PeerLease], places: Places, numbers: dict[str, Tensor]) -> Targets:
    return Targets(
        codes=leases["codes"].addresses,
        scale=leases["scale"].addresses if "scale" in leases else None,
        numbers=leases["numbers"].addresses,
        starts=numbers["starts"],
        room=places.room,
        fill=places.fill,
    )


def _arrived(numbers: Tensor, places: Places, sent: Routing) -> _Arrived:
    """Return the blocks of the numbers, of the rows that are handed out."""
    top_k, used = sent.topk_ids.shape[1], places.used
    begins = number_blocks(places.room, top_k, sent.adapters is not None)

    def block(name: str, width: int) -> Tensor:
        begin = begins[name]
        return numbers[begin : begin + used * width]

    routing = Routing(
        topk_ids=block("ids", top_k).view(-1, top_k),
        topk_weights=block("weights", top_k).view(torch.float32).view(-1, top_k),
        adapters=None if sent.adapters is None else block("adapters", 1),
    )
    return _Arrived(routing=routing, tokens=block("tokens", 1))


def _row_scales(x: Activations) -> Tensor | None:
    """Return the scales that travel with their rows, [T, C], or None."""
    return x.scale if x.format.has_row_scales else None


def _is_captured(x: Tensor) -> bool:
    """Tell whether a CUDA graph is being captured, in which the host must not wait."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()
