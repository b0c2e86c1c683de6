"""Facts of a model: what they derive, what contradicts itself, and their one line."""

import pytest
from pydantic import ValidationError

from harness.matrix.model_facts import ModelFacts, RouterFacts

PLAIN = {
    "checkpoint": "x/y",
    "source": ["z"],
    "hidden": 64,
    "intermediate": 32,
    "experts": 8,
    "top_k": 2,
}


def test_shared_experts_have_a_routed_experts_size_unless_told():
    assert ModelFacts(**PLAIN).shared_width == 0
    assert ModelFacts(**PLAIN, shared_experts=2).shared_width == 64
    assert ModelFacts(**PLAIN, shared_experts=1, shared_intermediate=48).shared_width == 48


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"top_k": 9}, "top_k 9 exceeds the number of experts, 8"),
        (
            {"router": RouterFacts(groups=2, chosen_groups=4)},
            "chosen_groups 4 exceeds router.groups, 2",
        ),
        ({"shared_gate": True}, "shared_experts is 0, but their width or gate is given; leave"),
        ({"shared_intermediate": 3}, "shared_experts is 0, but"),
        ({"hidden": "64"}, "valid integer"),
        ({"quant": "FP8"}, "match pattern"),
    ],
)
def test_facts_that_contradict_each_other_are_refused(fields, text):
    with pytest.raises(ValidationError, match=text):
        ModelFacts(**{**PLAIN, **fields})


def test_the_summary_names_everything_that_is_not_plain():
    assert ModelFacts(**PLAIN).summary() == (
        "hidden 64; intermediate 32; 8 experts, top-2; softmax router, renormalised; silu; "
        "unquantized; bf16"
    )
    router = RouterFacts(
        scoring="sigmoid",
        renormalize=False,
        bias=True,
        groups=4,
        chosen_groups=2,
        scale=2.5,
        weights_input=True,
    )
    odd = ModelFacts(
        **PLAIN,
        router=router,
        activation="relu2",
        gated=False,
        shared_experts=1,
        shared_gate=True,
        expert_bias=True,
        latent=16,
        quant="mxfp4",
        dtype="fp16",
    )
    assert odd.summary() == (
        "hidden 64; intermediate 32; 8 experts, top-2; sigmoid router, bias for the choice, "
        "2 of 4 groups, weights times 2.5 on the experts' input; relu2, not gated; "
        "1 shared (32 columns, gated); expert biases; latent size 16; quant mxfp4; fp16"
    )
