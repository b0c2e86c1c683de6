"""Each refusal has a code and says why; what fits is taken."""

import dataclasses

import pytest

from harness.errors import UsageError
from harness.plan.machine import Machine, planned_for
from harness.plan.plan import make_plan
from moe.all2all import ALL2ALL
from moe.experts import EXPERTS
from moe.layers.base import LayerSubject
from moe.quant import QUANT, QuantSpec
from moe.spec import ANY, MemberSpec, Needs, Platform, Scheme
from tests.harness.plan.points import CPU, HOPPERS, case, refusal

MI300 = planned_for("rocm_gfx942", 1)


class Outside:
    row = MemberSpec(name="outside", target="test_refusals:Outside", needs=Needs(max_world=1))


class OutsideLayer(LayerSubject):
    takes = frozenset({"tp", "ep"})

    def load(self, checkpoint):
        raise AssertionError("a plan makes no layer")

    def forward(self, x):
        raise AssertionError("a plan calls no layer")


class BySigmoid(OutsideLayer):
    routers = frozenset({"sigmoid"})


class ByAnyRouter(OutsideLayer):
    routers = ANY


class OnLogits(OutsideLayer):
    takes_logits = True
    needs = Needs(features=frozenset({"cuda"}))


def layer_case(name="OutsideLayer", **fields):
    return case(experts="own", layer=f"{__name__}:{name}", **fields)


@pytest.mark.parametrize("fields", [{}, {"tp_size": 2}, {"tp_size": 2, "use_ep": True}])
def test_a_layer_runs_where_it_names_all_that_is_asked(fields):
    point = layer_case(**fields)
    assert make_plan([point], CPU).cases == (point,)


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"dp_size": 2}, "layout_unsupported", "OutsideLayer: does not name 'dp' in its `takes`"),
        (
            {"tp_size": 2, "use_ep": True, "sequence_parallel": True},
            "layout_unsupported",
            "does not name 'sp'",
        ),
        ({"shared_experts": 1}, "shared_experts_unsupported", "does not name 'shared'"),
        ({"renormalize": False}, "renormalize_unsupported", "does not name 'no_renorm'"),
        (
            {"quant": "fp8_block"},
            "scheme_unsupported",
            "takes model with model, not fp8_block with fp8_group",
        ),
        (
            {"num_experts": 129},
            "gate_not_realisable",
            "one hidden column per expert, and 129 experts are more than 128 columns",
        ),
        (
            {"router": "sigmoid"},
            "router_unsupported",
            "OutsideLayer: has the router softmax, not sigmoid",
        ),
        ({"exact": True}, "exact_unsupported", "leave `exact` out"),
        ({"top_k": 9}, "top_k_exceeds_experts", "is larger than the number of experts, 8"),
    ],
)
def test_a_layer_is_not_asked_for_what_it_does_not_name(fields, code, text):
    reason = refusal(layer_case(**fields))
    assert reason.code == code
    assert text in reason.text


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("OutsideLayer", [None, "router_unsupported"]),
        ("BySigmoid", ["router_unsupported", None]),
        ("ByAnyRouter", [None, None]),
    ],
)
def test_a_layer_is_asked_for_the_routers_that_it_names(name, codes):
    points = [layer_case(name, router=router) for router in ("softmax", "sigmoid")]
    plan = make_plan(points, CPU)
    refused = {r.case: r.reason.code for r in plan.refused}
    assert [refused.get(point) for point in points] == codes
    assert plan.cases == tuple(p for p in points if p not in refused)


def test_a_layer_on_logits_needs_no_column_per_expert_but_what_it_says():
    reason = refusal(layer_case("OnLogits", num_experts=129))
    assert (reason.code, reason.text) == (
        "platform_lacks_feature",
        "OnLogits: needs cuda, which cpu does not have",
    )
    point = layer_case("OnLogits", num_experts=129)
    assert make_plan([point], HOPPERS).cases == (point,)


@pytest.mark.parametrize("fields", [{"experts": "triton"}, {"all2all": "local"}])
def test_a_layer_brings_all_members_itself(fields):
    with pytest.raises(UsageError, match=r"has its own members; write experts:own, and no a2a"):
        make_plan([layer_case().replace(**fields)], CPU)


def test_a_layer_that_takes_an_unknown_word_is_refused_with_those_there_are():
    with pytest.raises(
        ValueError, match=r"'X' takes 'cp'; choose from dp, tp, ep, sp, pcp, moe_tp, expert_dp, sh"
    ):
        type("X", (OutsideLayer,), {"takes": frozenset({"cp"})})


@pytest.mark.parametrize(
    ("fields", "machine", "code", "text"),
    [
        (
            {"top_k": 9},
            CPU,
            "top_k_exceeds_experts",
            "top_k 9 is larger than the number of experts, 8",
        ),
        ({"sequence_parallel": True}, CPU, "sp_needs_ep_and_tp", "set use_ep and tp_size"),
        ({"n": 3, "tp_size": 4}, CPU, "empty_shard", "intermediate size 3 over 4 ranks"),
        (
            {"experts": "flashinfer_cutlass", "activation": "gelu_tanh"},
            HOPPERS,
            "activation_unsupported",
            "flashinfer_cutlass: computes the activation silu, not gelu_tanh",
        ),
        (
            {"all2all": "local", "tp_size": 2},
            CPU,
            "too_many_ranks",
            "local: serves at most 1 rank(s), not 2",
        ),
        (
            {"experts": "flashinfer_cutlass"},
            CPU,
            "platform_lacks_feature",
            "flashinfer_cutlass: needs cuda, fp8_mma, which cpu does not have",
        ),
        (
            {"experts": "triton", "quant": "fp8_block"},
            MI300,
            "platform_lacks_feature",
            "triton: multiplies fp8_block codes, which needs fp8_e4m3; rocm_gfx942 does not have "
            "it: choose another quant, or a backend whose needs say `dequantizes`",
        ),
        (
            {"experts": "torch_grouped", "quant": "fp8_tensor"},
            CPU,
            "weight_format_unsupported",
            "torch_grouped: takes weight_format model, not fp8_tensor",
        ),
        ({"experts": "triton", "dtype": "f32"}, CPU, "dtype_unsupported", "not f32"),
        (
            {"experts": "triton", "m": 222, "n": 1024, "k": 2048},
            CPU,
            "interpreter_too_slow",
            "triton: interpreted kernels would take about 37 s, more than 20 s; "
            "use a smaller shape or a GPU",
        ),
        (
            {"n": 4096, "k": 8192, "num_experts": 256},
            CPU,
            "needs_memory",
            "1 rank(s) with 167.2 GB each do not fit into 80% of main memory's 16.0 GB",
        ),
        (
            {"n": 4096, "k": 8192, "num_experts": 256, "tp_size": 4},
            HOPPERS,
            "needs_memory",
            "2 rank(s) with 51.5 GB each do not fit into 80% of a device's 80.0 GB",
        ),
    ],
)
def test_a_refusal_has_a_code_and_a_sentence(fields, machine, code, text):
    reason = refusal(case(**fields), machine)
    assert reason.code == code
    assert text in reason.text


def test_formats_are_matched_as_pairs(monkeypatch):
    """Each half is one that the kernels take, with another partner."""
    scheme = Scheme(weights="fp8_block", activations="int8_token", weight_bytes=1)
    row = QuantSpec(name="mixed", target="x:Y", scheme=scheme)
    monkeypatch.setattr(QUANT, "_rows", {**QUANT.rows, "mixed": row})
    reason = refusal(case(experts="triton", quant="mixed", n=256))
    assert reason.code == "activation_format_unsupported"
    assert reason.text == (
        "triton: takes fp8_block weights with activation_format fp8_group, not int8_token"
    )
    assert make_plan([case(experts="torch_loop", quant="mixed", n=256)], CPU).cases


@pytest.fixture
def in_lists(monkeypatch):
    """An all2all backend and an experts backend that speak a format of another package's."""
    anything = Needs(dtypes=ANY, formats=ANY)
    sends = MemberSpec(name="sends", target="x:Y", needs=anything, dispatch_format="lists")
    takes = MemberSpec(name="takes", target="x:Y", needs=anything, dispatch_format="lists")
    monkeypatch.setattr(ALL2ALL, "_rows", {**ALL2ALL.rows, "sends": sends})
    monkeypatch.setattr(EXPERTS, "_rows", {**EXPERTS.rows, "takes": takes})


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"all2all": "sends"},
            "torch_loop takes the dispatch_format standard, but sends produces lists; choose two "
            "that name the same",
        ),
        (
            {"experts": "takes"},
            "takes takes the dispatch_format lists, but allgather_reducescatter produces "
            "standard; choose two that name the same",
        ),
    ],
)
@pytest.mark.usefixtures("in_lists")
def test_members_that_speak_different_dispatch_formats_are_refused(fields, text):
    reason = refusal(case(**fields))
    assert (reason.code, reason.text) == ("dispatch_format_mismatch", text)


@pytest.mark.usefixtures("in_lists")
def test_members_that_speak_one_dispatch_format_run():
    point = case(experts="takes", all2all="sends")
    assert make_plan([point], CPU).cases == (point,)
    assert make_plan([case(experts="auto", all2all="sends")], CPU).cases == (point,)


def test_auto_becomes_the_member_that_is_chosen():
    auto = case(experts="auto")
    assert make_plan([auto], CPU).cases[0].experts == "triton"
    slow = case(experts="auto", m=222, n=1024, k=2048)
    assert make_plan([slow], CPU).cases[0].experts == "torch_grouped"
    quantized = slow.replace(quant="fp8_tensor")
    assert make_plan([quantized], CPU).cases[0].experts == "torch_loop"
    assert make_plan([auto, case(experts="triton")], CPU).cases == (case(experts="triton"),)


def test_a_class_by_its_path_brings_its_own_needs():
    path = f"{__name__}:Outside"
    assert make_plan([case(experts=path)], CPU).cases
    reason = refusal(case(experts=path, tp_size=2))
    assert reason.text == "outside: serves at most 1 rank(s), not 2"


def test_packages_count_here_and_not_for_another_machine(monkeypatch):
    row = MemberSpec(name="rare", target="x:Y", needs=Needs(packages=("no_such_package",)))
    monkeypatch.setattr(EXPERTS, "_rows", {**EXPERTS.rows, "rare": row})
    point = case(experts="rare")
    assert make_plan([point], CPU).cases == (point,)
    here = dataclasses.replace(CPU, planned=False)
    reason = refusal(point, here)
    assert reason.code == "package_missing"
    assert "'no_such_package' is not installed" in reason.text


def test_a_platform_is_matched_by_features_alone():
    features = frozenset({"cuda", "sm90", "fp8_mma", "triton"})
    chip = Platform(name="new", device="cuda", features=features)
    there = Machine(
        platform=chip, devices=1, device_bytes=10**11, cores=4, memory_bytes=10**11, planned=True
    )
    assert make_plan([case(experts="flashinfer_cutlass")], there).cases
