"""Estimates of memory and of interpreted seconds."""

import pytest

from harness.fixtures import call_sizes
from harness.plan import cost
from harness.plan.machine import planned_for
from tests.harness.plan.points import case


def test_the_memory_estimate_grows_with_what_a_rank_holds():
    base = cost.rank_bytes(case().layer_spec, "cpu")
    for more in ({"num_experts": 64}, {"m": 4096}, {"shared_experts": 4}, {"quant": "fp8_tensor"}):
        changed = cost.rank_bytes(case(**more).layer_spec, "cpu")
        assert (changed < base) if "quant" in more else (changed > base)


def test_padding_adapters_and_projections_count():
    def estimates(**more):
        layer_spec = case(**{"experts": "triton", "n": 96, "k": 96, **more}).layer_spec
        return cost.rank_bytes(layer_spec, "cpu"), cost.interpreted_seconds(layer_spec, 2)

    base = estimates()
    for more in ({"roundup": 256}, {"adapters": 4}, {"latent": 256}):
        assert all(a > b for a, b in zip(estimates(**more), base, strict=True)), more
    assert estimates(latent=64)[1] < base[1]  # narrower experts
    padded = case(n=100, k=72, tp_size=2, roundup=64).layer_spec
    assert cost.padded_sizes(padded) == (128, 128)
    assert cost.padded_sizes(case(n=100, k=72, use_ep=True, roundup=64).layer_spec) == (128, 128)
    for quant in ("none", "mxfp4"):  # the second one does not pad
        layer_spec = case(n=128, k=128, quant=quant).layer_spec
        wide = cost.padded_sizes(layer_spec, 256)
        assert wide == ((256, 256) if layer_spec.pads else (128, 128))


def test_the_share_of_memory_is_that_of_all_ranks_and_at_one_a_case_does_not_fit():
    machine = planned_for("cpu")
    one, two = (cost.memory_share(case(dp_size=d).layer_spec, machine) for d in (1, 2))
    assert two == pytest.approx(2 * one, rel=0.05)
    largest = case(num_experts=int(8 / one)).layer_spec
    for layer_spec in (case().layer_spec, largest):
        fits = cost.shortage(layer_spec, machine) is None
        assert fits == (cost.memory_share(layer_spec, machine) <= 1)


# Recorded on two cores, of which others took a part; see the constants.
@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"n": 128, "k": 128, "num_experts": 4}, 0.6),
        ({"n": 512, "k": 512, "quant": "fp8_block"}, 2.4),
        ({"n": 1024, "k": 1024}, 16.7),
        ({"n": 1024, "k": 2048}, 25.7),
        ({"n": 1024, "k": 2048, "quant": "int4_g32"}, 13.7),
        ({"m": 222, "n": 1024, "k": 2048}, 59.2),
        ({"m": 512, "n": 256, "k": 256}, 2.0),
        ({"n": 512, "k": 512, "num_experts": 64, "m": 32, "top_k": 6}, 23.8),
        ({"n": 64, "k": 64, "num_experts": 512, "m": 64, "top_k": 8}, 16.5),
        ({"n": 256, "k": 128, "num_experts": 4, "dp_size": 2, "use_ep": True}, 1.1),
    ],
)
def test_the_interpreter_estimate_is_within_a_factor_of_two_of_what_was_recorded(fields, seconds):
    estimate = cost.interpreted_seconds(case(experts="triton", **fields).layer_spec, 2)
    assert seconds / 2 < estimate < seconds * 2


def test_few_tokens_mean_more_calls():
    def calls(m):
        return len(call_sizes.all_counts(case(m=m)))

    def estimate(m):
        return cost.interpreted_seconds(case(experts="triton", m=m, n=512, k=512).layer_spec, 2)

    assert cost.FEW_TOKENS == call_sizes.FEW
    assert calls(cost.FEW_TOKENS) >= 2.5 * calls(cost.FEW_TOKENS + 1)
    assert estimate(cost.FEW_TOKENS) > 2 * estimate(cost.FEW_TOKENS + 1)


def test_interpreted_ranks_share_the_cores():
    sharded = case(experts="triton", n=1024, tp_size=4).layer_spec
    assert cost.interpreted_seconds(sharded, 4) < cost.interpreted_seconds(sharded, 2)
    more = case(experts="triton", n=1024, tp_size=4, shared_experts=2).layer_spec
    assert cost.interpreted_seconds(more, 4) > cost.interpreted_seconds(sharded, 4)
