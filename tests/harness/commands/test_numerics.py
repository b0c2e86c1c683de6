"""`numerics` in ranks of its own: what it prints, and the exit code for each kind of end."""

from __future__ import annotations

import pytest

from harness import cli
from harness.commands.numerics import of_layer, planned
from harness.commands.options import parse
from harness.plan import machine
from tests.harness.checks import places_members

SMALL = "m:16-n:32-k:64-e:4-topk:1-experts:torch_loop"
LAYERS = "tests.harness.outside_layers"


def run(member, *options):
    return cli.main(["numerics", "--experts", member.row.name, *options])


def plan_of(*argv):
    return planned(parse(["numerics", *argv]), machine.planned_for("cpu"))


def test_an_empty_row_gets_its_declaration(capsys):
    assert run(places_members.Loop) == 0
    out = capsys.readouterr().out
    assert "Loop on cpu, 3 cases of one rank:\n  m:16-n:128-k:128-e:8-topk:1-experts:" in out
    assert '  numerics=Numerics(gemm1="model", activated_gate="f32", activation="model", ' in out


def test_a_row_that_states_too_much_ends_with_1(capsys):
    assert run(places_members.MoreExact) == 1
    out = capsys.readouterr().out
    assert "more exact than its row declares: gemm1, activation, expert are not rounded" in out


def test_a_whole_layer_is_measured_by_its_outputs(capsys):
    assert cli.main(["numerics", "--layer", f"{LAYERS}:Rounds"]) == 0
    assert "It rounds as its row declares." in capsys.readouterr().out


def test_the_router_inside_a_whole_layer_gets_its_line(capsys):
    layer = "tests.harness.rounding_layers:SaysFloat32"
    case = f"m:16-n:32-k:64-e:4-topk:2-experts:own-layer:{layer}"
    assert cli.main(["numerics", "--case", case]) == 1
    out = capsys.readouterr().out
    assert "Its row states another one. Paste into the class:" in out
    assert out.endswith("  rounding = RouterNumerics.as_torch()\n")


def test_a_case_with_adapters_on_a_latent_width_is_measured(capsys):
    case = SMALL.replace("topk:1", "topk:2")
    assert cli.main(["numerics", "--case", f"{case}-lora:2-latent:96"]) == 0
    out = capsys.readouterr().out
    assert "3 cases of one rank" in out
    assert f"{SMALL.replace('topk:1', 'topk:4')}-lora:2-latent:96" in out
    assert out.endswith("It rounds as its row declares.\n")


def test_shared_experts_of_a_model_are_left_out():
    share = plan_of("--experts", "torch_loop", "--model", "deepseek-v3", "--quant", "none").cases
    assert {case.shared_experts for case in share} == {0}
    assert {case.k for case in share} == {7168}


@pytest.mark.parametrize(
    ("member", "text"),
    [
        (places_members.Dies, "rank 0: ended by SIGSEGV"),
        (places_members.Raises, "RuntimeError: no kernel image for these shapes"),
        (places_members.Hangs, "rank 0: still running after"),
    ],
)
def test_a_member_that_returns_nothing_ends_with_1_and_the_evidence(member, text, capsys):
    assert run(member, "--time-limit", "10") == 1
    captured = capsys.readouterr()
    assert f"{member.__name__} returned no outputs to compare" in captured.err
    assert text in captured.err
    assert "rounds as its row declares" not in captured.out


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        ([], 3, "give one of them: --experts NAME, --layer NAME, --router NAME"),
        (["--case", f"{SMALL}-shared:1-dp:2"], 3, "of routed experts alone"),
        (["--case", f"{SMALL}-shared:1-dp:2"], 3, "leave out dp, shared"),
        (["--case", f"{SMALL}-exact"], 3, "leave out exact"),
        (["--case", SMALL, "--quant", "none"], 3, "leave --model and --quant out"),
        (["--case", SMALL, "--experts", "triton"], 3, "one of them"),
        (["--experts", "triton", "--layer", "x:Y"], 3, "one of them"),
        (["--experts", "triton", "--time-limit", "0"], 3, "seconds above 0, not '0'"),
        (["--experts", "nope"], 3, "no experts backend is called 'nope'"),
        (["--experts", "triton", "--quant", "nope"], 3, "nope"),
        (["--experts", "torch_grouped", "--quant", "fp8_block"], 4, "weight_format_unsupported"),
    ],
)
def test_what_cannot_be_asked_says_why(argv, code, text, capsys):
    assert cli.main(["numerics", *argv]) == code
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.out == ""


def test_a_member_of_another_chip_ends_with_75(monkeypatch, capsys):
    monkeypatch.setattr(machine, "detect", lambda: machine.planned_for("cpu"))
    assert cli.main(["numerics", "--experts", "flashinfer_cutlass"]) == 75
    err = capsys.readouterr().err
    assert "platform_lacks_feature: flashinfer_cutlass: needs cuda" in err
    assert err.endswith("run it on a machine that has it\n")


def test_the_first_cases_that_the_member_takes_are_chosen():
    plain = plan_of("--experts", "triton").cases
    assert [case.top_k for case in plain] == [1, 2, 4]
    assert {case.quant for case in plain} == {"none"}
    only = plan_of("--experts", places_members.TakesInt8Only.row.name).cases
    assert {(case.quant, case.k, case.n) for case in only} == {("int8_block", 256, 256)}


def test_a_layer_runs_with_its_own_experts_and_the_named_quantization():
    layer = plan_of("--layer", f"{LAYERS}:Fp8Block", "--quant", "fp8_block").cases
    assert {(case.quant, case.experts) for case in layer} == {("fp8_block", "own")}


def test_a_layer_is_asked_with_a_router_that_it_has():
    sigmoid = {"experts": "own", "layer": "transformers_deepseek_v3", "router": "sigmoid"}
    assert of_layer("transformers_deepseek_v3") == sigmoid
    assert of_layer("torchtitan_moe") == {"experts": "own", "layer": "torchtitan_moe"}
