"""The layer's parts put together: refusals, members from outside, and who really served."""

import dataclasses
import importlib
import sys

import pytest
import torch

from harness.execute import run_case
from harness.fixtures.rank_context import RankContext
from harness.matrix.case import MoETestConfig
from moe import expert_shards, layer
from moe.all2all import ALL2ALL
from moe.collectives import ALONE, Groups
from moe.errors import MoEError, RefusedError
from moe.experts import EXPERTS
from moe.layout import Layout
from moe.platforms import platform
from moe.quant import QUANT
from moe.spec import LayerSpec

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = platform("cpu")
SIZES = {"m": 3, "hidden": 64, "intermediate": 48, "num_experts": 4, "top_k": 2}
CASE = MoETestConfig(m=3, n=48, k=64, num_experts=4, top_k=2, experts="torch_loop", all2all="local")


def layer_spec(quant="none", **fields):
    return LayerSpec(scheme=QUANT.row(quant).scheme, **{**SIZES, **fields})


def members(**names):
    return layer.Members(**{"experts": "torch_loop", "all2all": "local", "quant": "none", **names})


def judged(**fields):
    context = RankContext(rank=0, world_size=1, device=torch.device("cpu"), transport="gloo")
    return run_case(CASE.replace(**fields), context)


# --- refusals


@pytest.mark.parametrize(
    ("asked", "names", "code", "text"),
    [
        (
            layer_spec(dtype="f32"),
            {"experts": "torch_grouped"},
            "dtype_unsupported",
            "torch_grouped refuses this layer: dtype_unsupported: takes dtype bf16, not f32",
        ),
        (
            layer_spec("fp8_block"),
            {"experts": "torch_grouped", "quant": "fp8_block"},
            "weight_format_unsupported",
            "torch_grouped refuses this layer: weight_format_unsupported: "
            "takes weight_format model, not fp8_block",
        ),
        (
            layer_spec(layout=Layout(tp_size=2)),
            {},
            "too_many_ranks",
            "local refuses this layer: too_many_ranks: serves at most 1 rank(s), not 2",
        ),
        (
            layer_spec(),
            {"experts": "flashinfer_cutlass"},
            "platform_lacks_feature",
            "flashinfer_cutlass refuses this layer: platform_lacks_feature: "
            "needs cuda, fp8_mma, which cpu does not have",
        ),
        (
            layer_spec(dtype="f32"),
            {"experts": "tests.moe.outside_members:TokenByToken"},
            "dtype_unsupported",
            "token_by_token refuses this layer: dtype_unsupported: takes dtype bf16, not f32",
        ),
    ],
)
def test_the_member_that_refuses_is_named_with_its_reason(asked, names, code, text):
    with pytest.raises(RefusedError) as caught:
        layer.check(asked, CPU, members(**names))
    assert str(caught.value) == text
    assert caught.value.reason.code == code


def test_members_that_take_a_problem_are_silent():
    layer.check(layer_spec(), CPU, members(experts="torch_grouped"))
    layer.check(layer_spec("int8_channel"), CPU, members(quant="int8_channel"))


def test_a_layer_is_not_built_from_members_that_refuse_its_platform():
    with pytest.raises(RefusedError, match="local refuses this layer: too_many_ranks"):
        build(layer_spec(layout=Layout(tp_size=2)), platform=CPU)
    assert build(layer_spec(), platform=CPU).members["all2all"] == "Local"


def test_an_unknown_member_is_named():
    with pytest.raises(
        MoEError, match="no quantization method is called 'fp8_blok', did you mean 'fp8_block'"
    ):
        layer.check(layer_spec(), CPU, members(quant="fp8_blok"))


# --- the parts


def build(asked, names=None, **options):
    quant = QUANT.load((names or members()).quant)()
    w13, w2 = torch.ones(4, 96, 64).bfloat16(), torch.ones(4, 64, 48).bfloat16()
    weights = expert_shards.shard_weights(asked, 0, quant, w13, w2)
    groups = Groups(gather=ALONE, tp=ALONE)
    return layer.build(asked, 0, groups, names or members(), weights, **options)


def test_the_classes_that_serve_are_reported():
    assert build(layer_spec("fp8_block"), members(quant="fp8_block")).members == {
        "experts": "TorchLoopExperts",
        "all2all": "Local",
        "quant": "Fp8Block",
        "router": "SoftmaxTopK",
    }


def test_a_case_s_result_reports_every_member():
    found = judged(experts="torch_grouped", all2all="allgather_reducescatter")
    assert found.members == {
        "experts": "TorchGroupedExperts",
        "all2all": "AllGatherReduceScatter",
        "quant": "NoQuant",
        "router": "SoftmaxTopK",
    }


def test_weights_are_quantized_whole_and_then_cut():
    """A rank's codes have the whole matrix's scale, though its own largest value is smaller."""
    asked = layer_spec("fp8_tensor", layout=Layout(tp_size=2))
    w13, w2 = torch.ones(4, 96, 64).bfloat16(), torch.ones(4, 64, 48).bfloat16()
    w13[:, 95] = 448.0  # the last column of up: on rank 1
    quant = QUANT.load("fp8_tensor")()
    for rank in range(2):
        mine = expert_shards.shard_weights(asked, rank, quant, w13, w2)
        assert mine.w13_scale.tolist() == [1.0] * 4
        assert (mine.w13.shape, mine.w2.shape) == ((4, 48, 64), (4, 64, 24))


# --- members from outside: one file, and nothing else changes


@pytest.mark.parametrize("quant", ["none", "fp8_block", "int8_channel"])
def test_a_class_by_its_path_is_built_and_judged(quant):
    found = judged(experts="tests.moe.outside_members:TokenByToken", quant=quant)
    assert (str(found.verdict), found.messages) == ("passed", ())
    assert found.members["experts"] == "TokenByToken"


def test_a_wrong_class_by_its_path_fails():
    found = judged(experts="tests.moe.outside_members:UpFirst")
    assert str(found.verdict) == "failed"
    assert "rows wrong" in found.messages[0]


def test_members_that_speak_different_dispatch_formats_make_no_layer(monkeypatch):
    lists = dataclasses.replace(ALL2ALL.row("local"), name="lists", dispatch_format="lists")
    monkeypatch.setattr(ALL2ALL, "_rows", {**ALL2ALL.rows, "lists": lists})
    text = "torch_loop refuses this layer: dispatch_format_mismatch: torch_loop takes the"
    with pytest.raises(RefusedError, match=text):
        layer.check(layer_spec(), platform("cpu"), members(all2all="lists"))


def test_an_all2all_backend_by_its_path():
    found = judged(all2all="tests.moe.outside_members:Alone")
    assert (str(found.verdict), found.members["all2all"]) == ("passed", "Alone")


def test_a_quant_method_by_its_path():
    found = judged(quant="tests.moe.outside_members:SignedBytes")
    assert (str(found.verdict), found.members["quant"]) == ("passed", "SignedBytes")
    same = judged(quant="int8_channel")
    assert found.metrics == same.metrics


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a distribution with one entry point into a folder of its own."""

    def install(group, value):
        info = tmp_path / "outsider-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outsider\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\nanything = {value}\n")
        monkeypatch.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        for table in (EXPERTS, ALL2ALL, QUANT):
            monkeypatch.setattr(table, "_rows", None)  # as in a new process

    return install


def test_a_row_of_an_installed_package_is_found_and_judged(installed):
    installed("moe.experts", "tests.moe.outside_members:OUTSIDE")
    assert "token_by_token" in EXPERTS.rows
    assert "token_by_token" not in ALL2ALL.rows
    found = judged(experts="token_by_token")
    assert (str(found.verdict), found.members["experts"]) == ("passed", "TokenByToken")


def test_a_row_that_takes_another_s_name_is_refused(installed):
    installed("moe.experts", "tests.moe.outside_members:CLASH")
    with pytest.raises(MoEError) as caught:
        EXPERTS.row("torch_loop")
    assert str(caught.value) == "two experts rows are called 'torch_loop'; rename one"


def test_without_the_package_its_row_is_unknown():
    assert "token_by_token" not in EXPERTS.rows
    with pytest.raises(MoEError, match="no experts backend is called 'token_by_token'"):
        EXPERTS.row("token_by_token")
    assert "tests.moe.outside_members" in sys.modules


@pytest.mark.parametrize("all2all", ["local", "allgather_reducescatter"])
@pytest.mark.parametrize(
    ("spoiled", "says"),
    [
        (lambda out: out[:1], "[1, 64]"),  # it would be broadcast to all tokens
        (lambda out: out[:, :-1], "[3, 63]"),
        (lambda out: (out,), "tuple"),
        (lambda out: None, "NoneType"),
    ],
)
def test_experts_whose_output_has_another_shape_are_named(monkeypatch, spoiled, says, all2all):
    kind = EXPERTS.load("torch_loop")
    real = kind.apply
    monkeypatch.setattr(kind, "apply", lambda self, x, routing: spoiled(real(self, x, routing)))
    with pytest.raises(MoEError) as error:
        judged(all2all=all2all)
    assert str(error.value) == (
        f"TorchLoopExperts.apply returned {says}; it must return [T, K] = [3, 64]"
    )


# --- biases of experts


def biased_spec(**fields) -> LayerSpec:
    plain = {"m": 4, "hidden": 16, "intermediate": 8, "num_experts": 2, "top_k": 1}
    return LayerSpec(**{**plain, "expert_bias": True, **fields})


@pytest.mark.parametrize(("activation", "rows"), [("silu", 16), ("silu_no_mul", 8)])
def test_biases_are_sharded_as_rows_and_the_second_one_is_kept_once(activation, rows):
    spec = biased_spec(activation=activation, layout=Layout(tp_size=2))
    w13, w2 = torch.randn(2, rows, 16).bfloat16(), torch.randn(2, 16, 8).bfloat16()
    b13, b2 = torch.randn(2, rows).bfloat16(), torch.randn(2, 16).bfloat16()
    quant = QUANT.load("none")()
    parts = [expert_shards.shard_weights(spec, rank, quant, w13, w2, (b13, b2)) for rank in (0, 1)]
    halves = [torch.cat([h[:, 4 * r : 4 * r + 4] for h in b13.split(8, dim=1)], 1) for r in (0, 1)]
    for part, half in zip(parts, halves, strict=True):
        assert torch.equal(part.b13, half)
        assert part.w13.shape[:2] == part.b13.shape
    assert torch.equal(parts[0].b2 + parts[1].b2, b2), "the sum over ranks has it once"


@pytest.mark.parametrize(
    ("expert_bias", "shapes", "text"),
    [
        (True, None, "expert_bias is True, but biases are None"),
        (False, ((2, 16), (2, 16)), "expert_bias is False, but biases are given"),
        (True, ((2, 8), (2, 16)), r"b13 is \[2, 8\]; it must have one value for each row"),
        (True, ((2, 16), (2, 8)), r"b2 is \[2, 8\]; it must have one value for each row"),
    ],
)
def test_biases_that_do_not_fit_the_layer_are_named(expert_bias, shapes, text):
    biases = None if shapes is None else tuple(torch.zeros(s) for s in shapes)
    w13, w2 = torch.randn(2, 16, 16), torch.randn(2, 16, 8)
    spec = biased_spec(expert_bias=expert_bias)
    with pytest.raises(MoEError, match=text):
        expert_shards.shard_weights(spec, 0, QUANT.load("none")(), w13, w2, biases)
