"""Ids say all of a case, give it back, and tell what is wrong with them."""

import dataclasses
import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import CaseError
from harness.matrix.case import AXES, MoETestConfig
from moe.quant import QUANT

PLAIN = MoETestConfig(m=32, n=256, k=128, num_experts=8, top_k=2, experts="triton")

ASCII = st.characters(codec="ascii")
sizes = st.integers(1, 10**9)
counts = st.integers(0, 10**6)
names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.:]{0,20}", fullmatch=True, alphabet=ASCII)
BY_FIELD = {
    "experts": names,
    "all2all": names,
    "quant": names,
    "layer": names,
    "shared_experts": counts,
    "seed": counts,
}
factors = st.floats(0.001, 1000.0)
BY_TYPE = {"int": sizes, "float": factors, "bool": st.booleans(), "str": names}


def strategy(field):
    if AXES[field.name].choices:
        return st.sampled_from(AXES[field.name].choices)
    return BY_FIELD[field.name] if field.name in BY_FIELD else BY_TYPE[field.type]


cases = st.builds(MoETestConfig, **{f.name: strategy(f) for f in dataclasses.fields(MoETestConfig)})


@given(cases)
def test_an_id_gives_back_any_case(case):
    assert MoETestConfig.from_id(case.id) == case


@given(cases)
def test_an_id_needs_no_quotes(case):
    assert re.fullmatch(r"[A-Za-z0-9._:-]+", case.id)
    assert shlex.quote(case.id).strip("'") == case.id


@given(cases, cases)
def test_different_cases_have_different_ids(one, other):
    assert (one.id == other.id) == (one == other)


def test_what_is_under_test_is_the_backend_or_the_layer_that_has_its_own():
    assert PLAIN.under_test == "triton"
    assert PLAIN.replace(experts="own", layer="a.b:C").under_test == "a.b:C"


def test_fields_at_their_default_are_left_out():
    assert PLAIN.id == "m:32-n:256-k:128-e:8-topk:2-experts:triton"
    assert PLAIN.replace(tp_size=2, use_ep=True, renormalize=False).id == (
        "m:32-n:256-k:128-e:8-topk:2-experts:triton-tp:2-ep-no_renorm"
    )


def test_an_order_of_tokens_does_not_matter():
    shuffled = "ep-experts:triton-topk:2-e:8-k:128-n:256-m:32"
    assert MoETestConfig.from_id(shuffled) == PLAIN.replace(use_ep=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("m:1-n:2", "lacks k, e, topk, experts"),
        (PLAIN.id + "-tpp:2", "no field is called 'tpp', did you mean 'tp'?"),
        (PLAIN.id + "-zzz:2", "(known: m, n, k"),
        (PLAIN.id + "-tp:two", "'two' is not a whole number"),
        (PLAIN.id + "-tp:02", "'02' is not a whole number"),
        (PLAIN.id + "-tp", "write 'tp:VALUE'"),
        (PLAIN.id + "-no_tp", "write 'tp:VALUE'"),
        (PLAIN.id + "-ep:1", "write 'ep' or 'no_ep'"),
        (PLAIN.id + "-m:3", "m is given twice"),
        (PLAIN.id + "-tp:0", "tp_size must be at least 1, not 0"),
        (PLAIN.id + "-scale:2.5.1", "'2.5.1' is not a number such as 2.5"),
        (PLAIN.id + "-scale:.5", "'.5' is not a number such as 2.5"),
        (PLAIN.id + "-scale:0", "router_scale must be a number from 0.001 to 1000, not 0.0"),
        (PLAIN.id + "-dtype:f8", "dtype must be one of bf16, fp16, f32, not 'f8'"),
        (
            PLAIN.id + "-tokens:many",
            "tokens must be one of even, ragged, idle, alone, none, not 'many'",
        ),
    ],
)
def test_a_bad_id_says_what_is_wrong(text, message):
    with pytest.raises(CaseError, match=re.escape(message)) as error:
        MoETestConfig.from_id(text)
    assert str(error.value).startswith(f"case id {text!r}: ")


def test_every_bad_token_is_named_at_once():
    with pytest.raises(CaseError) as error:
        MoETestConfig.from_id("tpp:2-dpp:3")
    assert "'tpp'" in str(error.value)
    assert "'dpp'" in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"), [("m", True), ("m", 1.0), ("use_ep", 1), ("experts", "a b"), ("seed", -1)]
)
def test_fields_are_strict(field, value):
    with pytest.raises(CaseError, match=field):
        PLAIN.replace(**{field: value})


@given(cases)
def test_token_counts_are_those_of_the_axis(case):
    dp = min(case.dp_size, 50)
    case = case.replace(dp_size=dp)
    assert len(case.counts) == dp
    full = [case.m] * (dp - 1)
    if case.tokens == "alone":
        assert case.counts == (*([0] * (dp - 1)), case.m)
        return
    assert case.counts[0] == case.m
    idle = case.tokens == "idle" and dp > 1
    assert (case.counts[-1] == 0) == idle
    if case.tokens != "ragged":
        assert case.counts == (*full, 0 if idle else case.m)
    if case.tokens == "ragged":
        assert sorted(case.counts, reverse=True) == list(case.counts)
        assert case.counts[-1] < case.m or dp == 1 or case.m == 1


@pytest.mark.parametrize("quant", [row.name for row in QUANT])
def test_the_layer_spec_says_the_same(quant):
    case = PLAIN.replace(quant=quant, tp_size=2, use_ep=True, sequence_parallel=True)
    layer_spec = case.layer_spec
    assert (layer_spec.m, layer_spec.intermediate, layer_spec.hidden) == (32, 256, 128)
    assert layer_spec.scheme == QUANT.row(quant).scheme
    assert layer_spec.layout.world_size == case.world_size == 2
    assert layer_spec.layout.sequence_parallel


def test_an_equal_value_of_another_type_is_refused_after_a_right_one():
    """What is known of a value is not taken for that of 1.0 or true; a list is refused, too."""
    point = MoETestConfig(m=1, n=32, k=32, num_experts=2, top_k=1, experts="torch_loop")
    for value in (True, 1.0, [1]):
        with pytest.raises(CaseError, match=re.escape(f"m must be int, not {value!r}")):
            point.replace(m=value)
