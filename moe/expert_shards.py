"""Quantize the full experts of a rank and take its shard of them, a few experts at a time.

Quantizing takes many times the memory of its result, so a large layer is never quantized at once.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING

from moe.byte_views import joined
from moe.errors import MoEError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from moe.quant.base import QuantMethod
    from moe.spec import LayerSpec
    from moe.types import ExpertWeights

    # w13, w2 and biases of some experts, see `shard_weights`.
    Experts = tuple[Tensor, Tensor, tuple[Tensor, Tensor] | None]

# Weights that are quantized at once, unless a single expert has more. On a device fewer and larger
# kernels are faster.
AT_ONCE = {"cpu": 1 << 20, "cuda": 1 << 27}


def shard_weights(
    layer_spec: LayerSpec,
    rank: int,
    quant: QuantMethod,
    w13: Tensor,
    w2: Tensor,
    biases: tuple[Tensor, Tensor] | None = None,
) -> ExpertWeights:
    """Return this rank's weights of some experts: quantized whole, and then sharded.

    w13: [e, 2N, K], w2: [e, K, N] model dtype, of experts that the rank has; of a latent layer with
    L in place of K. biases: b13 [e, 2N] and b2 [e, K], never quantized, or None. Raises MoEError if
    they are there and the layer has none, or the reverse, and for other shapes.
    """
    _check_biases(layer_spec, w13, w2, biases)
    quantized = quant.quantize_weights(w13, w2)
    if biases is not None:
        quantized = quantized.replace(b13=biases[0], b2=biases[1])
    columns = layer_spec.layout.intermediate_of(rank, layer_spec.intermediate)
    if len(columns) == layer_spec.intermediate:
        return quantized
    return quant.shard(quantized, columns, layer_spec.intermediate)


def shard_in_groups(
    layer_spec: LayerSpec, rank: int, quant: QuantMethod, groups_of_experts: Iterable[Experts]
) -> ExpertWeights:
    """Return `shard_weights` of all experts of a rank.

    groups_of_experts: the arguments of each group, in order.

    Only one group's full weights exist at a time if they are made when asked for.
    """
    # starmap keeps no group while the next one is made, as a loop's variable would.
    parts = list(
        itertools.starmap(partial(shard_weights, layer_spec, rank, quant), groups_of_experts)
    )
    if len(parts) == 1:
        return parts[0]
    names = parts[0].by_expert
    return parts[0].replace(**{n: joined([getattr(part, n) for part in parts]) for n in names})


def groups(experts: int, of_expert: int, device: str) -> list[slice]:
    """Return the places of experts that are quantized at once; one empty slice if there are none.

    of_expert: weights of one expert. device: a torch device's type.
    """
    step = max(1, AT_ONCE.get(device, AT_ONCE["cuda"]) // max(1, of_expert))
    return [slice(start, start + step) for start in range(0, max(experts, 1), step)]


def _check_biases(
    layer_spec: LayerSpec, w13: Tensor, w2: Tensor, biases: tuple[Tensor, Tensor] | None
) -> None:
    if (biases is not None) != layer_spec.expert_bias:
        raise MoEError(
            f"expert_bias is {layer_spec.expert_bias}, but biases are "
            f"{'None' if biases is None else 'given'}; pass b13 and b2 exactly if it is True"
        )
    if biases is None:
        return
    for name, bias, w in (("b13", biases[0], w13), ("b2", biases[1], w2)):
        if bias.shape != w.shape[:2]:
            raise MoEError(
                f"{name} is {list(bias.shape)}; it must have one value for each row of the "
                f"weights {list(w.shape)}: {list(w.shape[:2])}"
            )
