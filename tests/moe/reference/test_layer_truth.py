"""What a reference knows of its layer: kept by its variants, and never half of the numerics."""

from __future__ import annotations

import pytest
import torch

from moe.numerics import Numerics
from moe.reference.adapters import AdapterTruth
from moe.reference.latent import LatentTruth
from moe.reference.layer import BaselineSiluAndMul
from moe.spec import LayerSpec

K, N = 16, 8
SPEC = LayerSpec(
    m=2, hidden=K, intermediate=N, num_experts=2, top_k=1, dtype="f32", adapters=1, lora_rank=2
)


def expert(e):
    return torch.full((2 * N, K), e + 1.0), torch.full((K, N), e + 1.0)


ADAPTERS = AdapterTruth(
    of=lambda a, e: (torch.ones(2, 2, K), torch.ones(2, N, 2), torch.ones(2, N), torch.ones(K, 2)),
    scale=torch.tensor([0.5]),
)
LATENT = LatentTruth(down=torch.eye(K), up=torch.eye(K))


def reference(**more):
    return BaselineSiluAndMul(SPEC, Numerics.stated(), expert, **more)


def test_numerics_that_leave_a_place_open_are_an_error():
    with pytest.raises(ValueError, match=r"numerics do not state .*gemm1, .*Numerics\.stated"):
        BaselineSiluAndMul(SPEC, Numerics(), expert)


def test_variants_know_the_same_layer():
    class Variant(BaselineSiluAndMul):
        pass

    one = reference(
        adapters=ADAPTERS, latent=LATENT, biases=lambda e: (torch.ones(2 * N), torch.ones(K))
    )
    other = one.remade(Variant, Numerics.stated(gemm1="model"))
    assert type(other) is Variant
    assert (other.adapters, other.latent) == (ADAPTERS, LATENT)
    assert other.numerics.gemm1 == "model"
    assert torch.equal(other.biases(0)[1], torch.ones(K))
    tied = one.with_latent(LatentTruth(down=LATENT.down * 2, up=LATENT.up))
    assert torch.equal(tied.entered(torch.ones(1, K)), torch.full((1, K), 2.0))
    assert torch.equal(one.entered(torch.ones(1, K)), torch.ones(1, K))


def test_an_adapter_is_a_change_of_both_matrices():
    one = reference(adapters=ADAPTERS)
    w13, w2 = one.adapted(1, 0)
    assert torch.equal(w13, torch.full((2 * N, K), 3.0))  # 2, and half of a product over 2 ranks
    assert torch.equal(w2, torch.full((K, N), 3.0))
    assert torch.equal(one.adapted(1, -1)[0], one.weights(1)[0])
    assert torch.equal(reference().adapted(1, 0)[0], expert(1)[0])
