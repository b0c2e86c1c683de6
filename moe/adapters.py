"""Hold low-rank adapters of experts (LoRA), one for each token, and add what they contribute.

An adapter adds `x @ A.T @ B.T` to each product of an expert, x being the input that the expert's
own matrix gets: with quantized activations the values of its codes. Gate and up have an A and a B
each. Everything is computed in float32 and added before the product is rounded. A token's adapter
is a number, -1 for none; it travels with the token's routing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from moe.errors import MoEError

if TYPE_CHECKING:
    from torch import Tensor

    from moe.spec import LayerSpec


@dataclass(frozen=True, kw_only=True)
class Adapters:
    """Hold L adapters of rank r for E experts, in the layer's dtype, never quantized or padded.

    a13: [L, E, h, r, K] and b13: [L, E, h, N, r] of the first product; h = 2, gate and up, or 1 if
    the activation is not gated. a2: [L, E, r, N] and b2: [L, E, K, r] of the second product.
    scale: [L] float32 (alpha / r), or None where B already has it, as in a rank's share.
    """

    a13: Tensor
    b13: Tensor
    a2: Tensor
    b2: Tensor
    scale: Tensor | None = None


def shard_adapters(layer_spec: LayerSpec, rank: int, adapters: Adapters) -> Adapters:
    """Return this rank's share: its experts, its intermediate columns, and the scale in each B.

    adapters: of all experts of the layer. B of the first product and A of the second one have the
    intermediate columns; the others are whole on each rank.
    """
    experts = list(layer_spec.experts_of(rank))
    columns = layer_spec.layout.intermediate_of(rank, layer_spec.intermediate)
    part, scale = slice(columns.start, columns.stop), adapters.scale
    b13, b2 = adapters.b13[:, experts, :, part], adapters.b2[:, experts]
    if scale is not None:
        b13 = (b13.float() * scale.view(-1, 1, 1, 1, 1)).to(b13.dtype)
        b2 = (b2.float() * scale.view(-1, 1, 1, 1)).to(b2.dtype)
    return Adapters(
        a13=adapters.a13[:, experts].contiguous(),
        b13=b13.contiguous(),
        a2=adapters.a2[:, experts, :, part].contiguous(),
        b2=b2.contiguous(),
    )


def check_adapters(layer_spec: LayerSpec, rank: int, adapters: Adapters | None) -> None:
    """Raise MoEError unless a layer with adapters, and no other, has a rank's share of them."""
    count, r = layer_spec.adapters, layer_spec.lora_rank
    if (adapters is not None) != (count > 0):
        raise MoEError(
            f"adapters is {count}, but the adapters' matrices are "
            f"{'None' if adapters is None else 'given'}; pass them exactly if the layer has some"
        )
    if adapters is None:
        return
    local, n = len(layer_spec.experts_of(rank)), layer_spec.shard_sizes[rank]
    k, halves = layer_spec.expert_hidden, 2 if layer_spec.gated else 1
    expected = {
        "a13": [count, local, halves, r, k],
        "b13": [count, local, halves, n, r],
        "a2": [count, local, r, n],
        "b2": [count, local, k, r],
    }
    for name, shape in expected.items():
        actual = list(getattr(adapters, name).shape)
        if actual != shape:
            raise MoEError(
                f"adapters: {name} is {actual}; a rank's share of {count} adapters of rank {r} "
                f"must be {shape} (see shard_adapters)"
            )
    if adapters.scale is not None:
        raise MoEError("adapters: scale is given beside a rank's share; use shard_adapters")


def check_choice(layer_spec: LayerSpec, tokens: int, chosen: Tensor | None) -> None:
    """Raise MoEError unless each token has an adapter's number: [T] int32 from -1 on.

    On a device that cannot be asked without a sync, a number too large fails an assertion there.
    """
    count = layer_spec.adapters
    if chosen is None or count == 0:
        if (chosen is None) != (count == 0):
            given = "None" if chosen is None else "given"
            raise MoEError(
                f"the layer has {count} adapters, and the tokens' adapters are {given}; pass [T] "
                "int32, -1 for none, exactly if it has some"
            )
        return
    if list(chosen.shape) != [tokens] or chosen.dtype != torch.int32:
        raise MoEError(
            f"the tokens' adapters are {list(chosen.shape)} of {chosen.dtype}; they must be "
            f"[{tokens}] of torch.int32, one for each row of x"
        )
    valid = (chosen >= -1) & (chosen < count)
    if chosen.is_cuda:
        torch._assert_async(valid.all())
    elif chosen.device.type == "cpu" and not bool(valid.all()):
        row = int((~valid).nonzero()[0])
        raise MoEError(
            f"token {row} has adapter {int(chosen[row])}; the layer has 0 to {count - 1}, and -1 "
            "is none"
        )


def first(adapters: Adapters) -> tuple[Tensor, Tensor]:
    """Return A [L, e, h, r, K] and B [L, e, h, N, r] of the first product."""
    return adapters.a13, adapters.b13


def second(adapters: Adapters) -> tuple[Tensor, Tensor]:
    """Return A [L, e, 1, r, N] and B [L, e, 1, K, r] of the second product."""
    return adapters.a2[:, :, None], adapters.b2[:, :, None]


def in_float32(adapters: Adapters) -> Adapters:
    """Return the adapters with each A in float32, for kernels whose rows are float32."""
    return replace(adapters, a13=adapters.a13.float(), a2=adapters.a2.float())


def add_adapted(
    y: Tensor, x: Tensor, chosen: tuple[Tensor, Tensor], matrices: tuple[Tensor, Tensor]
) -> None:
    """Add what adapters contribute to a product, in place and in float32.

    y: [R, h * W] float32, W >= O: each half may end in padding. x: [R, I'], I' >= I likewise.
    chosen: local experts and adapters [R] each, -1 = none. matrices: A [L, e, h, r, I] and
    B [L, e, h, O, r].
    """
    (experts, adapters), (a, b) = chosen, matrices
    count, local, halves, _, inner = a.shape
    out, width = b.shape[3], y.shape[1] // halves
    pairs = torch.where((experts >= 0) & (adapters >= 0), adapters * local + experts, -1)
    for pair in torch.unique(pairs[pairs >= 0]).tolist():
        number, e = divmod(pair, local)
        assert number < count, f"adapter {number} of {count}"
        rows = (pairs == pair).nonzero().flatten()
        values = x[rows, :inner].float()
        for half in range(halves):
            shrunk = values @ a[number, e, half].float().T
            columns = slice(half * width, half * width + out)
            y[rows, columns] += shrunk @ b[number, e, half].float().T
