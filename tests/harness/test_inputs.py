"""A case's tensors: the same bits anywhere, and such that wrong answers would show."""

from __future__ import annotations

import hashlib

import pytest
import torch

from harness import inputs
from harness.case import MoETestConfig
from moe.reference import formats, routing

CASE = MoETestConfig(m=33, n=200, k=300, num_experts=9, top_k=3, experts="torch_loop", seed=5)
# Computed once on a CPU. A GPU, another torch or another layout must give the same bits; a
# change here makes every seed that anyone wrote down mean something else.
GOLDEN = {
    "x": "fe61004fa2f62953",
    "logits": "775120a7d1660d15",
    "w13": "505a3487eb0f48ef",
    "w2": "45c8c441f839f10c",
}
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def digest(t: torch.Tensor) -> str:
    raw = t.contiguous().view(torch.uint8).cpu().numpy().tobytes()
    return hashlib.sha256(raw).hexdigest()[:16]


@pytest.mark.parametrize("device", DEVICES)
def test_the_bits_are_the_same_everywhere(device: str) -> None:
    tokens = inputs.tokens(CASE, 1, 33, torch.device(device))
    w13, w2 = inputs.expert_weights(CASE, 4, torch.device(device))
    named = {"x": tokens.x, "logits": tokens.logits, "w13": w13, "w2": w2}
    assert {name: digest(t) for name, t in named.items()} == GOLDEN


def test_a_part_of_the_tokens_is_the_same_as_all_of_them() -> None:
    cpu = torch.device("cpu")
    whole, few = inputs.tokens(CASE, 0, 33, cpu), inputs.tokens(CASE, 0, 5, cpu)
    assert torch.equal(whole.x[:5], few.x)
    assert torch.equal(whole.logits[:5], few.logits)
    assert torch.equal(whole.index[:5], few.index)


def test_layouts_of_one_case_see_the_same_global_tokens() -> None:
    cpu = torch.device("cpu")
    other = CASE.replace(dp_size=2, use_ep=True, quant="int8_channel", experts="triton")
    for dp_rank in (0, 1):
        assert torch.equal(
            inputs.tokens(CASE, dp_rank, 33, cpu).x, inputs.tokens(other, dp_rank, 33, cpu).x
        )
    assert torch.equal(
        inputs.expert_weights(CASE, 2, cpu)[0], inputs.expert_weights(other, 2, cpu)[0]
    )


def test_ranks_seeds_and_experts_differ() -> None:
    cpu = torch.device("cpu")
    tokens = [inputs.tokens(CASE, d, 33, cpu).x for d in (0, 1, 2)]
    tokens.append(inputs.tokens(CASE.replace(seed=6), 0, 33, cpu).x)
    rows = torch.cat(tokens)
    assert len(rows.unique(dim=0)) == len(rows), "two tokens are the same"
    weights = [inputs.expert_weights(CASE, e, cpu)[0] for e in range(9)]
    assert len({digest(w) for w in weights}) == 9
    gate, up = weights[0].chunk(2)
    assert not torch.equal(gate, up)


@pytest.mark.parametrize(("experts", "top_k"), [(8, 1), (8, 2), (64, 6), (9, 3), (4, 4)])
@pytest.mark.parametrize("dtype", ["bf16", "fp16", "f32"])
def test_routing_can_be_judged(experts: int, top_k: int, dtype: str) -> None:
    case = CASE.replace(num_experts=experts, top_k=top_k, dtype=dtype)
    logits = inputs.tokens(case, 0, 66, torch.device("cpu")).logits.float()
    ordered = logits.sort(dim=1, descending=True).values
    if experts > top_k:
        gap = ordered[:, top_k - 1] - ordered[:, top_k]
        assert float((gap[::2] if dtype == "f32" else gap).min()) >= 1 / 16
        assert float(gap.min()) > 256 * routing.WEIGHT_NOISE * float(ordered.max())
    weights = routing.softmax_weights(logits, routing.choose(logits, top_k), renormalize=True)
    rms = weights.square().mean(dim=1).sqrt()
    assert float((weights.min(dim=1).values / rms).min()) >= 0.15
    used = routing.choose(logits, top_k).unique()
    assert len(used) == experts, "66 tokens should meet every expert"


@pytest.mark.parametrize("fields", [{}, {"exact": True}, {"quant": "fp8_tensor"}])
@pytest.mark.parametrize("k", [131, 256, 300])
@pytest.mark.parametrize("dp_rank", [0, 1])
def test_some_token_has_a_block_of_zeros_and_none_is_all_zero(fields, k, dp_rank) -> None:
    for m in (4, 5, 7, 32):
        case = CASE.replace(m=m, k=k, n=256, **fields)
        x = inputs.tokens(case, dp_rank, m, torch.device("cpu")).x.float()
        zero = formats.group_amax(x) == 0
        assert bool(zero.any()), m
        assert float(zero.float().mean()) <= 0.25, m
        assert not bool(zero.all(dim=1).any()), m


def test_one_block_is_never_all_zero() -> None:
    x = inputs.tokens(CASE.replace(k=128), 0, 33, torch.device("cpu")).x
    assert bool((x != 0).any(dim=1).all())


@pytest.mark.parametrize("fields", [{}, {"exact": True}, {"dtype": "fp16"}, {"k": 1024}])
@pytest.mark.parametrize("seed", range(4))
def test_each_rank_s_first_token_is_beyond_a_static_scale(fields, seed) -> None:
    for m in (1, 3, 8):
        case = CASE.replace(**{"quant": "fp8_tensor", "n": 256, "m": m, "seed": seed, **fields})
        cpu = torch.device("cpu")
        scale = inputs.calibration_tokens(case, cpu).x.float().abs().max() / 448
        for dp_rank in (0, 1, 2):
            codes = inputs.tokens(case, dp_rank, m, cpu).x.float() / scale
            assert float(codes[0].abs().max()) > 490
            beyond = (codes.abs() > 464).float().mean()
            assert float(beyond) < 0.02, "saturation must stay rare"


@pytest.mark.parametrize(("experts", "top_k"), [(8, 1), (8, 2), (64, 6), (9, 3)])
def test_logits_in_float32_do_not_survive_bf16(experts: int, top_k: int) -> None:
    case = CASE.replace(num_experts=experts, top_k=top_k, dtype="f32")
    logits = inputs.tokens(case, 0, 32, torch.device("cpu")).logits
    assert float((logits != logits.bfloat16().float()).float().mean()) > 0.6
    ids = routing.choose(logits.bfloat16(), top_k)  # the lower id first among equals
    right = routing.choose(logits, top_k)
    changed = (ids.sort(dim=1).values != right.sort(dim=1).values).any(dim=1)
    assert bool(changed[1::2].all())
    assert not bool(changed[::2].any())
    weights = routing.softmax_weights(logits, ids, renormalize=True)
    found = routing.complaints(logits, ids, weights, renormalize=True)
    assert found[0].startswith("routing: 16 of 32 tokens leave out a better expert")


def test_pre_activations_have_an_rms_near_one_to_two() -> None:
    cpu = torch.device("cpu")
    case = CASE.replace(k=512, n=512)
    x = inputs.tokens(case, 0, 64, cpu).x.float()
    sizes = [x @ inputs.expert_weights(case, e, cpu)[0].float().T for e in range(9)]
    rms = torch.tensor([float(s.square().mean().sqrt()) for s in sizes])
    assert 1.0 < float(rms.square().mean().sqrt()) < 2.0
    assert float(rms.max() / rms.min()) > 1.3, "experts should differ in size"


def test_magnitudes_differ_from_block_to_block() -> None:
    case = CASE.replace(k=512, n=512)
    w13, _ = inputs.expert_weights(case, 0, torch.device("cpu"))
    blocks = w13.float().view(8, 128, 4, 128).square().mean(dim=(1, 3)).sqrt()
    assert float(blocks.max() / blocks.min()) > 3


def test_normal_is_centred_and_has_unit_variance() -> None:
    values = inputs.normal(1, "any", torch.arange(300), 300)
    assert abs(float(values.mean())) < 0.02
    assert abs(float(values.var()) - 1) < 0.02
    lag = (values[:, 1:] * values[:, :-1]).mean()
    below = (values[1:] * values[:-1]).mean()
    assert abs(float(lag)) < 0.02
    assert abs(float(below)) < 0.02
