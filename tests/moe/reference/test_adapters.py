"""The reference's adapters: matrices with a change in them, for the tokens that chose it."""

import torch

from moe.numerics import Numerics
from moe.reference.adapters import AdapterTruth
from moe.reference.layer import BaselineSiluAndMul
from moe.reference.pairs import pairs_of
from moe.spec import LayerSpec

K, N, R = 32, 24, 4
SPEC = LayerSpec(
    m=6, hidden=K, intermediate=N, num_experts=3, top_k=2, dtype="f32", adapters=2, lora_rank=R
)


def truth():
    torch.manual_seed(1)
    made = {
        (a, e): (
            torch.randn(2, R, K) / 4,
            torch.randn(2, N, R) / 4,
            torch.randn(R, N) / 4,
            torch.randn(K, R) / 4,
        )
        for a in range(2)
        for e in range(3)
    }
    return AdapterTruth(of=lambda a, e: made[a, e], scale=torch.tensor([0.5, 2.0]))


def test_a_change_is_the_scaled_product_by_halves():
    one = truth()
    a13, b13, a2, b2 = one.of(1, 2)
    first, second = one.changes(1, 2, torch.float64)
    assert (first.shape, second.shape) == ((2 * N, K), (K, N))
    assert torch.allclose(first[N:], 2.0 * b13[1].double() @ a13[1].double())
    assert torch.allclose(second, 2.0 * b2.double() @ a2.double())


def test_pairs_have_one_adapter_each():
    ids = torch.tensor([[0, 1], [0, 2], [0, 1]], dtype=torch.int32)
    numbers = torch.tensor([1, -1, 1], dtype=torch.int32)
    pairs = list(pairs_of(ids, torch.ones(3, 2), 3, numbers))
    assert [(p.e, p.adapter, p.rows.tolist()) for p in pairs] == [
        *[(0, -1, [1]), (0, 1, [0, 2])],
        *[(1, 1, [0, 2]), (2, -1, [1])],
    ]


def test_each_token_gets_the_output_of_its_own_matrices():
    one = truth()
    experts = [(torch.randn(2 * N, K) / 5, torch.randn(K, N) / 5) for _ in range(3)]
    x, weights = torch.randn(6, K), torch.rand(6, 2)
    ids = torch.tensor([[0, 1], [1, 2], [2, 0]] * 2, dtype=torch.int32)
    numbers = torch.tensor([0, 1, -1, 1, 0, -1], dtype=torch.int32)
    numerics = Numerics.stated()
    kept = {}
    reference = BaselineSiluAndMul(SPEC, numerics, experts.__getitem__, adapters=one)
    answer = reference(x, ids, weights, adapters=numbers, products=kept)
    for number in (-1, 0, 1):
        changed = [
            (w13 + c13, w2 + c2)
            for e, (w13, w2) in enumerate(experts)
            for c13, c2 in [one.changes(max(number, 0), e, torch.float32)]
        ]
        chosen = experts if number < 0 else changed
        plain = BaselineSiluAndMul(SPEC, numerics, chosen.__getitem__)(x, ids, weights)
        rows = numbers == number
        assert torch.allclose(answer.out[rows], plain.out[rows], rtol=1e-4, atol=1e-4)
    assert {(e, number) for key in kept for e, number, _ in key} == {
        (e, n) for e_row, n in zip(ids.tolist(), numbers.tolist(), strict=True) for e in e_row
    }
    again = reference(x, ids, weights, adapters=numbers, products=kept, like=answer)
    assert torch.equal(again.out, answer.out)
