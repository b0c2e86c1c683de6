"""Copy the weights of experts between the slots of an EP group: only what differs, and in place.

A transfer has two halves. `start` copies all that leaves a slot and posts the messages; until
`finish` every slot holds what it held, so that calls of the layer may go on. `finish` waits, and
writes. A message holds all tensors of an expert as bytes: codes, scales, zero points and biases
cannot part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe.errors import MoEError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch.distributed as dist
    from torch import Tensor

    from moe.collectives import Group
    from moe.eplb.difference import Move


@dataclass(frozen=True, kw_only=True)
class Arriving:
    """Hold the bytes of one expert that are on their way to these slots of this rank."""

    to_slots: tuple[int, ...]
    packed: Tensor  # uint8


class Transfer:
    """Move experts of one layer on one rank. Collective: all ranks have the same moves.

    tensors: name -> [e, ...], all that belongs to the slots, with slot s in `tensor[s]`.
    """

    def __init__(self, tensors: Mapping[str, Tensor], moves: Sequence[Move], group: Group) -> None:
        self._tensors, self._moves, self._group = tensors, moves, group
        self._arriving: list[Arriving] = []
        self._posted: list[dist.Work] = []
        self._kept: list[Tensor] = []  # what is being sent must live until it is
        self.sent_bytes = 0

    def start(self) -> None:
        """Copy what leaves this rank's slots, and post all messages in the order of the moves."""
        for move in self._moves:
            if move.is_local and move.to_rank == self._group.rank:
                packed = pack(self._tensors, move.from_slot)
                self._arriving.append(Arriving(to_slots=move.to_slots, packed=packed))
            elif move.from_rank == self._group.rank:
                self._send(pack(self._tensors, move.from_slot), move.to_rank)
            elif move.to_rank == self._group.rank:
                self._arriving.append(
                    Arriving(to_slots=move.to_slots, packed=self._receive(move.from_rank))
                )

    def _send(self, packed: Tensor, to_rank: int) -> None:
        sent = packed.cpu() if self._group.staged else packed
        self._kept.append(sent)
        self.sent_bytes += sent.numel()
        self._posted.append(self._group.send(sent, to_rank))

    def _receive(self, from_rank: int) -> Tensor:
        room = torch.empty_like(pack(self._tensors, 0))
        room = room.cpu() if self._group.staged else room
        self._posted.append(self._group.receive(room, from_rank))
        return room

    def finish(self) -> None:
        """Wait for all messages, and write them to the slots."""
        for work in self._posted:
            work.wait()
        for arriving in self._arriving:
            for slot in arriving.to_slots:
                unpack(self._tensors, slot, arriving.packed)
        self._arriving, self._posted, self._kept = [], [], []


def pack(tensors: Mapping[str, Tensor], slot: int) -> Tensor:
    """Return a copy of all that belongs to a slot as bytes, [B] uint8, in the mapping's order."""
    return torch.cat([_bytes(tensor[slot]) for tensor in tensors.values()])


def _bytes(part: Tensor) -> Tensor:
    return part.contiguous().reshape(-1).view(torch.uint8)


def unpack(tensors: Mapping[str, Tensor], slot: int, packed: Tensor) -> None:
    """Write bytes that `pack` made to a slot, in place. Raises MoEError for another number."""
    parts = {name: tensor[slot] for name, tensor in tensors.items()}
    sizes = [part.numel() * part.element_size() for part in parts.values()]
    if sum(sizes) != packed.numel():
        raise MoEError(
            f"{packed.numel()} bytes arrived for slot {slot}, whose {', '.join(parts)} have "
            f"{sum(sizes)}: all ranks must hold their experts in the same layout"
        )
    pieces = torch.split(packed.to(next(iter(tensors.values())).device), sizes)
    for part, piece in zip(parts.values(), pieces, strict=True):
        aligned = piece.clone()  # a view of another dtype needs an aligned start
        part.copy_(aligned.view(part.dtype).view(part.shape))


def check_listed(tensors: Mapping[str, Tensor], slots: int, owner: str) -> None:
    """Raise MoEError unless each tensor has one part for each slot of the rank, and none is twice.

    owner: whose tensors they are, for the message.
    """
    if not tensors:
        raise MoEError(f"{owner}.expert_tensors lists nothing: name what `apply` reads per expert")
    starts: dict[int, str] = {}
    for name, tensor in tensors.items():
        if tensor.dim() == 0 or len(tensor) != slots:
            raise MoEError(
                f"{owner}: the tensor {name} of {list(tensor.shape)} has no part for each of the "
                f"rank's {slots} experts: list tensors whose first dimension is the local expert"
            )
        if slots > 1 and tensor.stride(0) == 0:
            raise MoEError(
                f"{owner}: all experts of {name} are one piece of memory: keep one for each expert"
            )
        twin = starts.setdefault(tensor.data_ptr(), name) if tensor.numel() else name
        if twin != name:
            raise MoEError(f"{owner}: {name} and {twin} share their memory: list it once")
