"""Compute outputs with low-rank adapters left out, exchanged, or applied in part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.fixtures import tensors
from harness.mutants import NotApplicable
from harness.mutants.recompute import redo
from harness.mutants.steps import (
    Steps,
    right_changes,
)
from harness.mutants.weights import neighbour

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from harness.mutants.sample import Scene

    Changes = tuple[Tensor, Tensor]


def lora_missing(scene: Scene) -> Tensor:
    """Leave out all adapters."""
    return _with(scene, lambda _, numbers: torch.full_like(numbers, -1))


def lora_of_next_adapter(scene: Scene) -> Tensor:
    """Give each token that has an adapter the next one's."""
    count = scene.case.adapters
    if count == 1:
        raise NotApplicable("the layer has a single adapter")
    return _with(scene, lambda _, numbers: torch.where(numbers < 0, numbers, (numbers + 1) % count))


def lora_of_neighbour(scene: Scene) -> Tensor:
    """Give each token the adapter of the token before it."""

    def before(sample: Scene, numbers: Tensor) -> Tensor:
        case, layout = sample.case, sample.case.layout
        place, d = layout.tokens_of(sample.rank, sample.counts), layout.dp_rank(sample.rank)
        tokens = tensors.tokens(case, d, sample.counts[d], numbers.device, sample.start)
        assert tokens.adapters is not None, "the layer has adapters"
        return tokens.adapters[place.start : place.stop].roll(1)[sample.rows]

    return _with(scene, before)


def lora_none_as_last(scene: Scene) -> Tensor:
    """Take -1, which is no adapter, for an index from the end."""
    last = scene.case.adapters - 1
    return _with(scene, lambda _, numbers: torch.where(numbers < 0, last, numbers))


def lora_scale_missing(scene: Scene) -> Tensor:
    """Leave out alpha / r."""
    return _changed(scene, lambda s, a, e: _times(s, a, e, lambda scale: 1 / scale))


def lora_scale_twice(scene: Scene) -> Tensor:
    return _changed(scene, lambda s, a, e: _times(s, a, e, lambda scale: scale))


def lora_first_missing(scene: Scene) -> Tensor:
    """Apply the adapter to the second product only."""
    return _parts(scene, lambda first, second: (torch.zeros_like(first), second))


def lora_second_missing(scene: Scene) -> Tensor:
    """Apply the adapter to the first product only."""
    return _parts(scene, lambda first, second: (first, torch.zeros_like(second)))


def lora_gate_only(scene: Scene) -> Tensor:
    """Apply the first product's adapter to gate, not to up."""
    return _halves(scene, lambda gate, up: (gate, torch.zeros_like(up)))


def lora_up_only(scene: Scene) -> Tensor:
    return _halves(scene, lambda gate, up: (torch.zeros_like(gate), up))


def lora_halves_swapped(scene: Scene) -> Tensor:
    """Exchange the adapters of gate and up."""
    return _halves(scene, lambda gate, up: (up, gate))


def lora_of_next_expert(scene: Scene) -> Tensor:
    """Apply the next expert's matrices of the right adapter."""
    return _changed(scene, lambda s, a, e: right_changes(s, a, neighbour(s, e, 1)))


def _chosen(scene: Scene) -> Tensor:
    """Return the rows' adapters. Raises NotApplicable if there are none."""
    if scene.adapters is None:
        raise NotApplicable("the layer has no adapters")
    return scene.adapters


def _with(scene: Scene, choose: Callable[[Scene, Tensor], Tensor]) -> Tensor:
    """Compute the output with other adapters for the tokens. Raises NotApplicable if none differs.

    choose: returns them from the scene of few rows and the right ones.
    """
    _chosen(scene)
    sample = scene.few_rows()
    adapters = _chosen(sample)
    mistaken = choose(sample, adapters)
    if torch.equal(mistaken, adapters):
        raise NotApplicable("these tokens have the same adapters as well")
    return redo(scene, Steps(adapters=lambda _: mistaken))


def _changed(scene: Scene, changes: Callable[[Scene, int, int], Changes]) -> Tensor:
    """Compute the output with other matrices of the adapters."""
    if not bool((_chosen(scene.few_rows()) >= 0).any()):
        raise NotApplicable("these tokens have no adapter")
    return redo(scene, Steps(changes=changes))


def _parts(scene: Scene, change: Callable[[Tensor, Tensor], Changes]) -> Tensor:
    return _changed(scene, lambda s, a, e: change(*right_changes(s, a, e)))


def _halves(scene: Scene, change: Callable[[Tensor, Tensor], Changes]) -> Tensor:
    """Compute the output with other changes of gate and up."""
    if not scene.reference.activation.gated:
        raise NotApplicable("the layer's activation is not gated")

    def of_both(first: Tensor, second: Tensor) -> Changes:
        return torch.cat(change(*first.chunk(2))), second

    return _parts(scene, of_both)


def _times(scene: Scene, adapter: int, e: int, factor: Callable[[float], float]) -> Changes:
    """Return the changes times a function of the adapter's scale."""
    assert scene.reference.adapters is not None, "the layer has adapters"
    by = factor(float(scene.reference.adapters.scale[adapter]))
    first, second = right_changes(scene, adapter, e)
    return by * first, by * second
