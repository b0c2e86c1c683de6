"""Facts become cases that say exactly the layer, or name what they do not say."""

import pytest

from harness.errors import UsageError
from harness.matrix.case import MoETestConfig
from harness.matrix.layout_words import parse_layouts
from harness.matrix.model_cases import missing_words, points_of
from harness.matrix.model_facts import ModelFacts, RouterFacts
from tests.harness.matrix.test_model_facts import PLAIN

ONE = parse_layouts("tp:1")


def facts(**fields):
    return ModelFacts(**{**PLAIN, **fields})


def ids(facts, layouts="tp:1", tokens=(1,), quants=()):
    choices = parse_layouts(layouts)
    return [case.id for case in points_of(facts, layouts=choices, tokens=tokens, quants=quants)]


def test_cases_are_layouts_times_methods_times_tokens():
    assert ids(facts(), "tp:1,tp:2", (1, 16), ("none", "fp8_block")) == [
        "m:1-n:32-k:64-e:8-topk:2-experts:auto",
        "m:16-n:32-k:64-e:8-topk:2-experts:auto",
        "m:1-n:32-k:64-e:8-topk:2-experts:auto-quant:fp8_block",
        "m:16-n:32-k:64-e:8-topk:2-experts:auto-quant:fp8_block",
        "m:1-n:32-k:64-e:8-topk:2-experts:auto-tp:2",
        "m:16-n:32-k:64-e:8-topk:2-experts:auto-tp:2",
        "m:1-n:32-k:64-e:8-topk:2-experts:auto-quant:fp8_block-tp:2",
        "m:16-n:32-k:64-e:8-topk:2-experts:auto-quant:fp8_block-tp:2",
    ]


def test_a_share_says_of_how_many_experts_it_is_and_caps_the_top_k():
    assert ids(facts(), "ep:8/1,ep:4/2") == [
        "m:1-n:32-k:64-e:1-of:8-topk:1-experts:auto",
        "m:1-n:32-k:64-e:4-of:8-topk:2-experts:auto-dp:2-ep",
    ]


def test_everything_that_a_case_can_say_is_said():
    said = facts(
        router=RouterFacts(scoring="sigmoid", renormalize=False),
        activation="gelu_tanh",
        shared_experts=1,
        shared_intermediate=96,
        quant="none",
        dtype="fp16",
    )
    (case,) = points_of(said, layouts=ONE, tokens=(4,))
    assert case == MoETestConfig(
        m=4,
        n=32,
        k=64,
        num_experts=8,
        top_k=2,
        experts="auto",
        router="sigmoid",
        renormalize=False,
        activation="gelu_tanh",
        shared_experts=3,  # one MLP of 96 columns
        dtype="fp16",
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, []),
        ({"router": RouterFacts(groups=4, chosen_groups=4)}, []),  # all groups: no choice
        ({"router": RouterFacts(groups=4, chosen_groups=2)}, ["router_groups"]),
        ({"router": RouterFacts(groups=4, chosen_groups=2, bias=True, scale=2.5)}, []),
        ({"router": RouterFacts(weights_input=True)}, []),
        ({"router": RouterFacts(scoring="cosine")}, ["scoring_cosine"]),
        ({"activation": "cubed", "gated": False}, ["act_cubed_no_mul"]),
        ({"quant": "fp8_block"}, []),
        ({"quant": "other4"}, ["quant_other4"]),
    ],
)
def test_what_no_case_says_is_named_in_the_case(fields, words):
    assert missing_words(facts(**fields), None) == words
    (case,) = points_of(facts(**fields), layouts=ONE, tokens=(1,))
    assert case.missing == (".".join(words) or "nothing")
    assert MoETestConfig.from_id(case.id) == case


ROUTED = RouterFacts(scoring="sigmoid", bias=True, groups=4, chosen_groups=2, scale=2.5)


def test_the_router_s_options_are_those_of_the_case():
    (case,) = points_of(facts(router=ROUTED), layouts=ONE, tokens=(1,))
    assert case.id.endswith("-router:sigmoid-bias-groups:4-chosen_groups:2-scale:2.5")
    weighing = facts(top_k=1, router=RouterFacts(weights_input=True))
    assert points_of(weighing, layouts=ONE, tokens=(1,))[0].weights_input


def test_a_share_that_has_not_the_model_s_groups_has_none():
    told = ids(facts(router=ROUTED), "ep:4/2,ep:8/1")
    assert ["groups" in one for one in told] == [True, False]
    assert all("-bias" in one for one in told)


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        ({"activation": "relu2", "gated": False}, "relu2_no_mul"),
        ({"activation": "swiglu_clamped"}, "swiglu_clamped"),
        ({"activation": "gelu", "gated": False}, "gelu_no_mul"),
    ],
)
def test_an_activation_without_a_gate_has_a_row_of_its_own(fields, row):
    (case,) = points_of(facts(**fields), layouts=ONE, tokens=(1,))
    assert (case.activation, case.missing) == (row, "nothing")


def test_biases_are_those_of_a_case():
    (case,) = points_of(facts(expert_bias=True), layouts=ONE, tokens=(1,))
    assert (case.expert_bias, case.missing) == (True, "nothing")


def test_a_method_that_is_asked_for_replaces_the_checkpoints():
    assert missing_words(facts(quant="mxfp4"), "none") == []
    assert missing_words(facts(quant="fp8_block", shared_experts=1), "fp8_block") == []
    assert ids(facts(quant="mxfp4"), quants=("fp8_block",)) == [
        "m:1-n:32-k:64-e:8-topk:2-experts:auto-quant:fp8_block"
    ]


def test_more_cases_than_a_run_may_have_are_refused_before_they_are_made():
    layouts, tokens = parse_layouts("tp:1,tp:2"), range(1, 500_002)
    with pytest.raises(UsageError) as caught:
        points_of(facts(), layouts=layouts, tokens=tokens)
    assert str(caught.value) == (
        "--layouts, --tokens and --quant make 1,000,002 cases, more than 1,000,000; give fewer "
        "of them"
    )
