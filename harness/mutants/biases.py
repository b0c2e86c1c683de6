"""Compute outputs with biases of experts that are lost, moved, or added too often."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.mutants import NotApplicable
from harness.mutants.contributions import blame
from harness.mutants.experts import suspect_of
from harness.mutants.recompute import redo
from harness.mutants.steps import (
    Steps,
    right_leave,
)
from harness.mutants.weights import neighbour

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene

    Biases = tuple[Tensor, Tensor]


def first_bias_missing(scene: Scene) -> Tensor:
    return _with(scene, lambda s, e: (torch.zeros_like(_own(s, e)[0]), _own(s, e)[1]))


def second_bias_missing(scene: Scene) -> Tensor:
    return _with(scene, lambda s, e: (_own(s, e)[0], torch.zeros_like(_own(s, e)[1])))


def second_bias_on_each_rank(scene: Scene) -> Tensor:
    """Add b2 on every rank that holds columns of the expert: the sum over ranks has it often."""
    _needs_biases(scene)
    if scene.case.layout.size("moe_tp") == 1:
        raise NotApplicable("every rank has whole experts")
    return redo(scene, Steps(adds_b2=lambda _: True))


def second_bias_unweighted(scene: Scene) -> Tensor:
    """Add b2 to an expert's output after its router weight, not before."""
    _needs_biases(scene)
    ids, weights = scene.topk_ids, scene.topk_weights
    if scene.reference.numerics.weight_on == "input" or bool((weights == 1).all()):
        raise NotApplicable("no router weight multiplies an output")
    biases = {e: _own(scene, e)[1] for e in torch.unique(ids).tolist() if e >= 0}
    blank = torch.zeros_like(next(iter(biases.values())))
    by_slot = torch.stack(
        [torch.stack([biases.get(e, blank) for e in row]) for row in ids.tolist()]
    )
    by_slot = right_leave(scene, by_slot)
    return scene.answer.out + ((1 - weights)[:, :, None] * by_slot).sum(dim=1)


def bias_halves_swapped(scene: Scene) -> Tensor:
    if not scene.reference.activation.gated:
        raise NotApplicable("the layer's activation is not gated")
    return _with(scene, lambda s, e: (_own(s, e)[0].roll(s.case.n, 0), _own(s, e)[1]))


def bias_interleaved(scene: Scene) -> Tensor:
    """Take interleaved values of b13 for those of gate and up."""
    if not scene.reference.activation.gated:
        raise NotApplicable("the layer's activation is not gated")

    def alternate(s: Scene, e: int) -> Biases:
        b13, b2 = _own(s, e)
        return torch.cat([b13[::2], b13[1::2]]), b2

    return _with(scene, alternate)


def biases_of_next_expert(scene: Scene) -> Tensor:
    return _with(scene, lambda s, e: _own(s, neighbour(s, e, 1)))


def expert_without_biases(scene: Scene) -> Tensor:
    """Leave out the biases of the expert none of whose rows is correct."""
    _needs_biases(scene)
    sample = scene.few_rows()
    suspect = int(suspect_of(scene, sample))
    blame(scene, f"expert {suspect}")

    def without(s: Scene, e: int) -> Biases:
        b13, b2 = _own(s, e)
        return (torch.zeros_like(b13), torch.zeros_like(b2)) if e == suspect else (b13, b2)

    return redo(scene, Steps(biases=without))


def _with(scene: Scene, biases) -> Tensor:  # type: ignore[no-untyped-def]  # Steps.biases
    """Compute the output with other biases."""
    _needs_biases(scene)
    return redo(scene, Steps(biases=biases))


def _own(scene: Scene, e: int) -> Biases:
    biases = scene.reference.biases(e)
    assert biases is not None
    return biases


def _needs_biases(scene: Scene) -> None:
    if not scene.case.expert_bias:
        raise NotApplicable("the experts have no biases")
