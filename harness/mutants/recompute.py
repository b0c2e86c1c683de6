"""Run a few rows through the experts again, with one step replaced.

Dozens of mistakes are computed, on few rows, in every case; `harness.mutants.steps` has the steps.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from harness.mutants import NotApplicable
from harness.mutants.contributions import parts_of
from harness.mutants.pairs import pairs_of, ranks_together
from harness.mutants.steps import RIGHT, Shard, Steps, cached, matrices, right_activation, rounded
from moe.reference.error_propagation import by_rank
from moe.reference.ownership import first_holders

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from harness.mutants.pairs import Pairs
    from harness.mutants.sample import Scene


def redo(scene: Scene, steps: Steps = RIGHT, *, ids: Tensor | None = None) -> Tensor:
    """Return the few first rows of the output with these steps, or with other experts in the slots.

    ids: see `redo_parts`. Result: [min(r, scene.few), K].
    """
    sample = scene.few_rows()
    ids = None if ids is None else ids[: scene.few]
    return sample.total(parts=redo_parts(sample, steps, ids=ids))


def redo_parts(scene: Scene, steps: Steps = RIGHT, *, ids: Tensor | None = None) -> Tensor:
    """Return [W, r, k, K], the unweighted contributions, as `Answer.parts`.

    ids: [r, k] global experts, -1 = none; None: the scene's own.
    """
    pairs = pairs_of(scene.expert_ids if ids is None else ids)
    parts = torch.zeros_like(parts_of(scene))
    if not pairs.experts:
        if scene.case.zero_experts:
            raise NotApplicable("these rows have zero experts only")
        return parts
    first_product = _first_product(scene, steps, pairs)
    holders = first_holders(scene.reference.layer_spec, scene.rank)
    for ranks in ranks_together(scene):
        local, at = pairs.among(holders[ranks[0]])
        if at:
            product = first_product if len(at) == len(first_product) else first_product[at]
            rows, slots = local.rows_and_slots
            values = _second_product(scene, steps, local, product, ranks)
            parts[ranks[0] : ranks[-1] + 1, rows, slots] = values
    return parts


def _product(
    scene: Scene, steps: Steps, pairs: Pairs, x: Tensor, weights: Iterable[Tensor]
) -> Tensor:
    """Return [..., P, O], each row of x [..., P, I] times its expert's matrix [..., O, I].

    weights: of each expert; made one after another, since they may be large.
    """
    pieces = zip(torch.split(x, pairs.counts, dim=-2), weights, strict=True)
    products = [steps.product(scene, rows, w) for rows, w in pieces]
    return steps.total(scene, torch.cat(products, dim=x.dim() - 2))


def _first_product(scene: Scene, steps: Steps, pairs: Pairs) -> Tensor:
    """Return [P, 2N], the first product, rounded as the member declares."""

    def make() -> Tensor:
        inputs = steps.inputs(scene, *pairs.rows_and_slots)
        weights = (steps.w13(scene, matrices(scene, e)) for e in pairs.experts)
        product = _product(scene, steps, pairs, inputs, weights)
        change = _change(scene, steps, pairs, inputs)
        product = product if change is None else product + change
        bias = _bias_of_rows(scene, steps, pairs, 0)
        return rounded(scene, product if bias is None else product + bias, "gemm1")

    if not steps.starts_right():
        return make()
    places = (pairs.experts, pairs.places, tuple(scene.rows.tolist()))
    return cached(scene, ("first product", places), make)


def _second_product(
    scene: Scene, steps: Steps, pairs: Pairs, product: Tensor, ranks: tuple[int, ...]
) -> Tensor:
    """Return [w, P, K], what these ranks add, from the first product [P, 2N]."""
    layout, n = scene.case.layout, scene.case.n
    columns = [layout.intermediate_of(rank, n) for rank in ranks]
    shards = [
        Shard(rank=rank, columns=slice(part.start, part.stop), intermediate=n)
        for rank, part in zip(ranks, columns, strict=True)
    ]
    rows, slots = pairs.rows_and_slots
    router_weight = scene.topk_weights[rows, slots]
    h = _intermediate(scene, steps, product, (shards, router_weight))
    h = h.reshape(len(ranks), len(product), h.shape[1])
    weights = (by_rank(steps.w2(scene, matrices(scene, e)), columns) for e in pairs.experts)
    output = _product(scene, steps, pairs, h, weights)
    change = _change(scene, steps, pairs, h, columns)
    output = output if change is None else output + change
    output = _unweighted(scene, output, router_weight)
    return steps.leave(scene, _with_second_bias(scene, steps, pairs, output, shards))


def _change(
    scene: Scene, steps: Steps, pairs: Pairs, x: Tensor, columns: list[range] | None = None
) -> Tensor | None:
    """Return what adapters add to a product, [P, 2N], or with columns [w, P, K]; None: nothing.

    x: [P, K], or [w, P, n] with each rank's columns.
    """
    adapters = steps.adapters(scene)
    if adapters is None:
        return None
    numbers = adapters[pairs.rows_and_slots[0]].tolist()
    changes, start = [], 0
    for e, count in zip(pairs.experts, pairs.counts, strict=True):
        for at in range(start, start + count):
            number = numbers[at]
            pair = steps.changes(scene, max(number, 0), e)
            w = pair[0] if columns is None else by_rank(pair[1], columns)
            row = x[..., at : at + 1, :] @ w.mT
            changes.append(row if number >= 0 else torch.zeros_like(row))
        start += count
    return torch.cat(changes, dim=-2)


def _with_second_bias(
    scene: Scene, steps: Steps, pairs: Pairs, output: Tensor, shards: list[Shard]
) -> Tensor:
    """Return the output [w, P, K], before router weights, with b2 on the ranks that add it."""
    bias = _bias_of_rows(scene, steps, pairs, 1)
    if bias is None:
        return output
    return torch.stack(
        [
            of_rank + bias if steps.adds_b2(shard) else of_rank
            for of_rank, shard in zip(output, shards, strict=True)
        ]
    )


def _bias_of_rows(scene: Scene, steps: Steps, pairs: Pairs, matrix: int) -> Tensor | None:
    """Return the bias of each pair's expert, [P, 2N] (0: b13) or [P, K] (1: b2); None: no bias."""
    biases = [steps.biases(scene, e) for e in pairs.experts]
    rows = [
        pair[matrix].expand(count, -1)
        for pair, count in zip(biases, pairs.counts, strict=True)
        if pair
    ]
    return torch.cat(rows) if rows else None


def _intermediate(
    scene: Scene, steps: Steps, product: Tensor, of_rows: tuple[list[Shard], Tensor]
) -> Tensor:
    """Return [w * P, n], the columns of w ranks' intermediates, quantized.

    of_rows: the columns of each rank, and the rows' router weights [P].
    """
    shards, weight = of_rows
    activation = steps.activation or right_activation(scene)
    gates, ups = zip(*(steps.halves(product, shard) for shard in shards), strict=True)
    gate, up = torch.cat(gates), None if ups[0] is None else torch.cat(ups)
    h = rounded(scene, activation(gate, up), "activation")
    if scene.reference.numerics.weight_on == "intermediate":
        h = rounded(scene, h * weight.repeat(len(shards))[:, None], "weighted")
    return steps.second(scene, h, shards[0].rank)


def _unweighted(scene: Scene, output: Tensor, weight: Tensor) -> Tensor:
    """Return the experts' output [w, P, K] before its router weights [P], as `Answer.parts`."""
    if scene.reference.numerics.weight_on == "output":
        return output
    return output / torch.where(weight == 0, 1.0, weight)[:, None]


def shared_mlp(scene: Scene, tp_rank: int | None = None) -> Tensor:
    """Return [r, K], the shared experts' output, or what a TP rank's columns add to it."""
    shared = scene.reference.shared
    assert shared is not None, "the layer has no shared experts of their own"
    x = scene.x.to(scene.reference.dtype)
    return shared(x).out if tp_rank is None else shared(x, scene.case.tp_size).parts[tp_rank]


def elsewhere(scene: Scene, **changes: Any) -> Scene:
    """Return the scene with other values; of its cache only the experts' matrices stay valid."""
    memo = {key: value for key, value in scene.memo.items() if key[0] == "matrices"}
    return dataclasses.replace(scene, memo=memo, **changes)
