"""A distribution of logits is refused where nobody could say what is right."""

import pytest

from harness.matrix.case import MoETestConfig
from harness.matrix.case_axes import LOGITS
from harness.matrix.logit_rules import WITH_GATE, WITH_OPTIONS, hidden_choice, logits_reason
from harness.plan.machine import planned_for
from harness.plan.refusals import Judge
from moe.experts import EXPERTS

PLAIN = MoETestConfig(m=4, n=64, k=64, num_experts=8, top_k=2, experts="torch_loop")


@pytest.mark.parametrize("name", LOGITS)
def test_a_plain_layer_takes_every_distribution(name):
    assert logits_reason(PLAIN.replace(logits=name)) is None


@pytest.mark.parametrize("name", LOGITS)
@pytest.mark.parametrize(
    "fields", [{"router_bias": True}, {"router_groups": 4, "chosen_groups": 2}]
)
def test_with_a_bias_or_groups_some_are_refused(name, fields):
    reason = logits_reason(PLAIN.replace(logits=name, **fields))
    assert (reason is None) == (name in WITH_OPTIONS)
    assert reason is None or reason.text.startswith(f"logits:{name}: with a bias or groups there")


@pytest.mark.parametrize("name", LOGITS)
@pytest.mark.parametrize("fields", [{"gate": True}, {"experts": "own", "layer": "torchtitan_moe"}])
def test_a_layer_that_hides_its_choice_is_given_a_clear_one(name, fields):
    reason = logits_reason(PLAIN.replace(logits=name, **fields))
    assert (reason is None) == (name in WITH_GATE)
    assert reason is None or reason.code == "logits_unsupported"


@pytest.mark.parametrize("name", LOGITS)
def test_a_backend_that_routes_by_itself_is_given_a_clear_choice(name):
    case = PLAIN.replace(logits=name, experts="torch_monolithic")
    reason = hidden_choice(case, EXPERTS.row("torch_monolithic"))
    assert (reason is None) == (name in WITH_GATE)
    assert hidden_choice(case, EXPERTS.row("torch_loop")) is None
    assert (Judge(planned_for("cpu"))(case)[1] is None) == (name in WITH_GATE)


def test_exact_inputs_have_no_gate():
    assert logits_reason(PLAIN.replace(exact=True, gate=True)).code == "exact_unsupported"
    assert logits_reason(PLAIN.replace(exact=True)) is None


def test_exact_inputs_need_whole_periods_of_columns_or_a_scale_for_each_row():
    for quant, is_refused in (
        *(("none", False), ("fp8_channel", False), ("int8_channel", False)),
        *(("fp8_tensor", True), ("fp8_tensor_token", True), ("fp8_channel_static", True)),
    ):
        reason = logits_reason(PLAIN.replace(exact=True, quant=quant, n=131))
        assert (reason is not None) == is_refused, quant
        assert reason is None or "n:131 is not a multiple of them on every rank" in reason.text
        assert logits_reason(PLAIN.replace(exact=True, quant=quant, n=128)) is None, quant


@pytest.mark.parametrize("quant", ["none", "fp8_tensor", "fp8_tensor_dynamic", "fp8_block"])
def test_nan_is_refused_where_a_scale_spans_all_tokens(quant):
    for logits in ("nan", "ties"):
        reason = logits_reason(PLAIN.replace(logits=logits, quant=quant))
        assert (reason is not None) == (quant == "fp8_tensor_dynamic")


def test_nan_is_refused_where_a_scale_of_shared_experts_spans_all_tokens():
    spanning, own = "nvfp4_dynamic", "fp8_block"
    for quant, logits in ((spanning, "nan"), (spanning, "ties"), (own, "nan")):
        reason = logits_reason(PLAIN.replace(shared_experts=1, shared_quant=quant, logits=logits))
        assert (reason is not None) == ((quant, logits) == (spanning, "nan"))


@pytest.mark.parametrize(
    ("router", "fields", "is_refused"),
    [
        ("sigmoid", {"renormalize": False}, True),
        ("triton_sigmoid", {"renormalize": False}, True),
        ("sigmoid", {"renormalize": True}, False),
        ("sigmoid", {"renormalize": False, "router_scale": 2.5}, False),
        ("sigmoid", {"renormalize": True, "top_k": 2, "router_scale": 2.0}, True),
        ("sigmoid", {"renormalize": True, "top_k": 2, "router_scale": 2.5}, False),
        ("sigmoid", {"renormalize": True, "top_k": 1}, False),
        ("softmax", {"renormalize": True, "top_k": 2, "router_scale": 2.0}, False),
        ("softmax", {"renormalize": False}, False),
        ("softmax", {"renormalize": False, "top_k": 1}, True),
        ("softmax", {"renormalize": True, "top_k": 1}, False),
        ("topk_softmax", {"renormalize": False, "top_k": 1}, False),
        ("softmax", {"renormalize": False, "top_k": 1, "router_scale": 2.5}, False),
    ],
)
def test_large_logits_are_refused_where_every_weight_is_one(router, fields, is_refused):
    reason = logits_reason(PLAIN.replace(logits="large", router=router, **fields))
    assert (reason is not None) == is_refused
    assert reason is None or "every weight of" in reason.text


@pytest.mark.parametrize(
    ("router", "fields", "is_refused"),
    [
        ("softplus_sqrt", {"renormalize": False}, True),
        ("triton_softplus_sqrt", {"renormalize": False}, True),
        ("softplus_sqrt", {"renormalize": True}, False),
        ("softplus_sqrt", {"renormalize": False, "shared_experts": 0}, False),
        ("softmax", {"renormalize": False}, False),
    ],
)
def test_large_logits_are_refused_where_weights_that_grow_hide_shared_experts(
    router, fields, is_refused
):
    case = PLAIN.replace(**{"logits": "large", "router": router, "shared_experts": 1, **fields})
    reason = logits_reason(case)
    assert (reason is not None) == is_refused
    assert reason is None or "hide the shared experts" in reason.text


@pytest.mark.parametrize(
    ("fields", "is_refused"),
    [
        ({"n": 131}, True),
        ({"n": 132}, True),
        ({"n": 136}, False),
        ({"n": 136, "tp_size": 2}, True),
        ({"n": 136, "tp_size": 2, "use_ep": True}, False),
        ({"n": 131, "quant": "none"}, False),
        ({"n": 131, "exact": False}, False),
        ({"n": 100, "quant": "int8_channel"}, False),  # a scale for each row
    ],
)
def test_exact_inputs_need_a_largest_value_in_each_part_of_the_quantized_columns(
    fields, is_refused
):
    case = PLAIN.replace(**{"exact": True, "quant": "fp8_tensor", **fields})
    reason = logits_reason(case)
    assert (reason is not None) == is_refused
    assert reason is None or (reason.code, "multiple of" in reason.text) == (
        "exact_unsupported",
        True,
    )
