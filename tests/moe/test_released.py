"""What the released packages must have, and what of a layer they refuse."""

from dataclasses import replace

import pytest

from moe import packages, released
from moe.layout import Layout
from moe.platforms import platform
from moe.spec import LayerSpec

CPU = platform("cpu")
ALL = (
    released.TRANSFORMERS_EXPERTS,
    released.MIXTRAL,
    released.QWEN3_MOE,
    released.OLMOE,
    released.DEEPSEEK_V3,
    released.GLM4_MOE,
    released.LLAMA4,
    released.GPT_OSS,
    released.TORCHTITAN_EXPERTS,
    released.TORCHTITAN,
)


def layer_spec(num_experts=8, **layout):
    sizes = {"m": 4, "hidden": 64, "intermediate": 64, "top_k": 2}
    return LayerSpec(**sizes, num_experts=num_experts, layout=Layout(**layout))


@pytest.mark.parametrize("package", ALL)
def test_a_package_that_is_installed_fits(package):
    """Where it is not, the only reason is that it is missing, or an older version."""
    reason = packages.refusal(package)
    assert reason is None or reason.code in ("package_missing", "package_too_old")


def test_packages_of_one_distribution_are_imported_together():
    """A plan waits for each: transformers' older blocks, its newer ones, and torchtitan."""
    assert len({package.modules for package in ALL}) == 3


@pytest.mark.parametrize(
    ("version", "layout", "is_refused"),
    [
        ("5.17.0", {"dp_size": 2, "use_ep": True}, True),
        ("5.17.0", {"dp_size": 2}, False),
        ("5.18.0", {"dp_size": 2, "use_ep": True}, False),
        (None, {"dp_size": 2, "use_ep": True}, False),
    ],
)
def test_old_eager_experts_take_no_expert_parallelism(version, layout, is_refused, monkeypatch):
    monkeypatch.setattr(released, "version", lambda name: version)
    reason = released.eager_experts_know_the_sentinel(layer_spec(**layout), CPU)
    assert (reason is not None) == is_refused
    if reason is not None:
        assert reason.code == "package_too_old"
        assert "transformers 5.17.0 is too old" in reason.text
        assert reason.text.endswith("expert parallelism needs transformers>=5.18")


def test_experts_that_ranks_do_not_divide_are_refused():
    ranks = {"dp_size": 2, "tp_size": 2}
    reason = released.experts_divide_evenly(layer_spec(10, **ranks, use_ep=True), CPU)
    assert (reason.code, reason.text) == (
        "experts_uneven",
        "splits experts evenly, and 4 ranks do not divide 10",
    )
    assert released.experts_divide_evenly(layer_spec(8, **ranks, use_ep=True), CPU) is None
    assert released.experts_divide_evenly(layer_spec(10, **ranks), CPU) is None


def test_whole_experts_are_spread_and_not_split():
    reason = released.whole_experts_divide_evenly(layer_spec(8, tp_size=2), CPU)
    assert reason.code == "layout_unsupported"
    assert reason.text.endswith("no plan that splits its experts; spread them with `ep`")
    assert released.whole_experts_divide_evenly(layer_spec(8, tp_size=2, use_ep=True), CPU) is None
    uneven = released.whole_experts_divide_evenly(layer_spec(9, tp_size=2, use_ep=True), CPU)
    assert uneven.code == "experts_uneven"


def test_llama_4_s_block_weighs_inputs_and_does_not_renormalise():
    plain = layer_spec()
    reason = released.weighs_inputs_only(plain, CPU)
    assert (reason.code, "set `weights_input` and `no_renorm`" in reason.text) == (
        "router_unsupported",
        True,
    )
    right = replace(plain, weights_input=True, renormalize=False)
    assert released.weighs_inputs_only(right, CPU) is None
    assert released.weighs_inputs_only(replace(right, renormalize=True), CPU) is not None


@pytest.mark.parametrize(("experts", "groups"), [(1, 1), (4, 4), (6, 4)])
def test_groups_of_one_expert_are_refused(experts, groups):
    few = replace(layer_spec(experts), router_groups=groups)
    reason = released.groups_have_two_experts(few, CPU)
    assert reason.code == "router_unsupported"
    assert f"{experts} experts in {groups} groups are 1 each; have at least two" in reason.text
    assert released.groups_have_two_experts(replace(few, num_experts=2 * groups), CPU) is None
