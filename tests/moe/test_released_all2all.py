"""What is called of packages that move tokens is there; layouts that they cannot serve."""

import dataclasses
import importlib.util

import pytest

from moe import package_source, packages
from moe.all2all import ALL2ALL
from moe.layout import Layout
from moe.platforms import platform
from moe.released_all2all import nixl_calls
from moe.spec import all2all_refusal
from tests.moe.kernels.kernel_cases import layer_spec_of

NAMES = ("flashinfer_nvlink", "deepep_ht", "deepep_ll", "mori", "nixl")
EP = Layout(dp_size=2, use_ep=True)


def calls_of(name):
    (package,) = ALL2ALL.row(name).needs.packages
    return package, package.calls


@pytest.mark.parametrize("name", ["flashinfer_nvlink", "deepep_ht", "mori"])
def test_the_calls_fit_the_package_s_signatures(name):
    package, calls = calls_of(name)
    if importlib.util.find_spec(package.module) is None:
        pytest.skip(f"{package.distribution} is not installed")
    assert [package_source.change(package_source.parse(call)) for call in calls] == [None] * len(
        calls
    )


def test_the_calls_fit_nixl_s_signatures():
    names = ("nixl_ep_cu12", "nixl_ep_cu13")
    installed = [name for name in names if importlib.util.find_spec(name) is not None]
    if not installed:
        pytest.skip("neither nixl-cu12 nor nixl-cu13 is installed")
    calls = [package_source.parse(call) for name in installed for call in nixl_calls(name)]
    assert [package_source.change(call) for call in calls] == [None] * len(calls)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_refused_without_its_chip_and_its_package(name):
    row = ALL2ALL.row(name)
    reason = all2all_refusal(row.needs, layer_spec_of("none", layout=EP), platform("cpu"))
    assert reason.code == "platform_lacks_feature"
    (package,) = row.needs.packages
    if importlib.util.find_spec(package.module) is not None:
        pytest.skip(f"a module {package.module} is installed")
    chip = platform("rocm_gfx942" if name == "mori" else "cuda_sm90")
    spec = layer_spec_of("none", layout=EP, hidden=2048)
    reason = all2all_refusal(row.needs, spec, chip)
    assert (reason.code, package.distribution in reason.text) == ("package_missing", True)
    assert packages.refusal(package).code == "package_missing"


def probed(name, **fields):
    from moe.need import resolve

    function = resolve(ALL2ALL.row(name).needs.probe)
    return function(layer_spec_of("none", **{"layout": EP} | fields), platform("cuda_sm90"))


@pytest.mark.parametrize("name", NAMES)
def test_ranks_must_hold_different_experts_and_tokens(name):
    fits = {"hidden": 2048, "top_k": 2}
    assert probed(name, **fits) is None
    for layout, text in (
        (Layout(dp_size=2), "not 2 rank(s) without it"),
        (Layout(tp_size=2, use_ep=True), "not 1 rank(s) with it"),
    ):
        reason = probed(name, layout=layout, **fits)
        assert (reason.code, text in reason.text) == ("layout_unsupported", True)


@pytest.mark.parametrize("name", NAMES)
def test_experts_that_are_spread_and_split_are_on_no_single_rank(name):
    needs = dataclasses.replace(ALL2ALL.row(name).needs, packages=(), probe=None)
    chip = platform("rocm_gfx942" if name == "mori" else "cuda_sm90")
    layouts = (Layout(dp_size=4, use_ep=True), Layout(dp_size=4, use_ep=True, moe_tp_size=2))
    specs = [layer_spec_of("none", hidden=2048, layout=layout) for layout in layouts]
    spread, split = (all2all_refusal(needs, spec, chip) for spec in specs)
    assert spread is None
    assert (split.code, "spread experts may be split" in split.text) == ("layout_unsupported", True)


def test_sizes_without_a_compiled_kernel_are_refused():
    for name in ("deepep_ll", "nixl"):
        reason = probed(name, hidden=1024)
        assert reason.code == "size_not_compiled"
        assert reason.text == (
            "has kernels for a hidden size of 2048, 2560, 4096, 5120, 6144, 7168, 8192, not 1024"
        )
    reason = probed("flashinfer_nvlink", top_k=3)
    assert reason.text == "has kernels for a top_k of 1, 2, 4, 6, 8, 10, 16, 22, not 3"
    reason = probed("deepep_ht", layout=Layout(dp_size=3, use_ep=True))
    assert reason.text == "exchanges tokens within one host between 2, 4, 8 ranks, not 3"
