"""`list` and `plan` choose cases by the options that `run` has."""

import pytest

from harness import cli
from harness.record.result import Verdict
from tests.harness.fake_engine import BASE


def listed(capsys):
    return capsys.readouterr().out.split("\n\n")[0].splitlines()


def test_cases_by_their_ids_are_listed(engine, capsys):
    ids = [f"{BASE}-tp:2", f"{BASE}-seed:1"]
    assert cli.main(["list", "--case", *ids]) == 0
    assert sorted(listed(capsys)) == sorted(ids)
    assert cli.main(["plan", "--case", *ids, "--platform", "cuda_sm90"]) == 0
    assert len(listed(capsys)) == 3


def test_a_suite_is_listed_with_another_backend(engine, capsys):
    assert cli.main(["list", "--experts", "torch_grouped"]) == 0
    ids = listed(capsys)
    assert len(ids) == 4
    assert all("-experts:torch_grouped" in case for case in ids)
    assert cli.main(["list", "--case", BASE, "--experts", "flashinfer_cutlass"]) == 4


def test_what_failed_last_is_listed(engine, capsys):
    assert cli.main(["list", "--last-failed"]) == 3
    engine.verdicts = {f"{BASE}-seed:1": Verdict.HUNG}
    cli.main(["run", "--suite", "smoke"])
    capsys.readouterr()
    assert cli.main(["list", "--last-failed"]) == 0
    assert listed(capsys) == [f"{BASE}-seed:1"]
    assert cli.main(["plan", "--last-failed", "--experts", "torch_grouped"]) == 0
    engine.verdicts = {}
    cli.main(["run", "--last-failed"])
    assert cli.main(["list", "--last-failed"]) == 4


def test_cases_in_which_an_expert_may_be_small_are_counted(engine, capsys):
    plain = "m:4-n:64-k:64-e:16-topk:{}-experts:torch_loop"
    ids = [plain.format(10), plain.format(11), plain.format(2).replace("n:64", "n:31")]
    said = "2 with topk above 10, or n or k below 32: one expert may be less than 0.15 of a row"
    assert cli.main(["list", "--case", *ids]) == 0
    assert said in capsys.readouterr().out.splitlines()
    assert cli.main(["list", "--case", ids[0]]) == 0
    assert "less than 0.15" not in capsys.readouterr().out


@pytest.mark.parametrize("command", ["list", "plan"])
def test_two_ways_to_choose_are_one_too_many(engine, capsys, command):
    assert cli.main([command, "--suite", "smoke", "--case", BASE]) == 3
    text = (
        "choose one of --suite, --case, --last-failed, --model, --trace (--suite and --case given)"
    )
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("command", [["run", "--suite", "smoke"], ["list"], ["fuzz"]])
def test_a_path_with_a_dot_for_its_colon_gets_a_hint(engine, capsys, command):
    assert cli.main([*command, "--experts", "my_pkg.mod.Mine"]) == 3
    error = capsys.readouterr().err
    assert "no experts backend is called 'my_pkg.mod.Mine'" in error
    assert "a class is named with a colon, as 'my_pkg.mod:Mine'" in error


def test_list_and_plan(engine, capsys):
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{BASE}-quant:fp8_block\n")
    assert "\n8 case(s) on cpu, 1 refused\n     1  platform_lacks_feature: e.g. " in out
    assert cli.main(["plan", "--platform", "cuda_sm90", "--devices", "1"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1].split() == ["1", "cuda", "nccl", "5", "33s"]
    assert out[2].split() == ["2", "cuda", "staged", "4", "33s"]
    assert cli.main(["list", "--suite", "nothing"]) == 4


def test_real_sizes_get_more_time(engine, capsys):
    assert cli.main(["plan", "--model", "olmoe-1b-7b", "--platform", "cuda_sm90"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["1", "cuda", "nccl", "6", "300s"]


def test_a_models_cases_are_listed_with_its_facts(engine, capsys):
    argv = ["list", "--model", "mixtral-8x7b", "--platform", "cuda_sm90", "--tokens", "1"]
    assert cli.main([*argv, "--layouts", "tp:1,ep:8/1", "--quant", "fp8_block"]) == 0
    out = capsys.readouterr().out
    assert sorted(out.split("\n\n")[0].splitlines()) == [
        "m:1-n:14336-k:4096-e:1-of:8-topk:1-experts:triton-quant:fp8_block",
        "m:1-n:14336-k:4096-e:8-topk:2-experts:triton-quant:fp8_block",
    ]
    assert "\nmixtral-8x7b (mistralai/Mixtral-8x7B-v0.1): hidden 4096; intermediate 14336; 8" in out
    assert "\n2 case(s) on cuda_sm90, 0 refused\n" in out
    assert cli.main(["list", "--model", "gpt-oss-20b", "--quant", "fp8_block"]) == 4
    assert "     6  block_straddles_shard: e.g. m:1-n:2880-k:2880-e:32-" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["list", "--model", "mixtral"], "no model is called 'mixtral', did you mean"),
        (["run", "--model", "none/config.json"], "--model none/config.json: there is no such file"),
        (["fuzz", "--model", "none.json"], "--model none.json: there is no such file"),
        (["list", "--tokens", "3"], "give --model NAME with --tokens"),
        (["run", "--suite", "smoke", "--quant", "none"], "give --model NAME with --quant"),
        (["fuzz", "--layouts", "tp:2"], "give --model NAME with --layouts"),
        (["plan", "--model", "glm-4.5", "--layouts", "tp"], "--layouts 'tp': 'tp' is not a word"),
        (["list", "--model", "glm-4.5", "--suite", "smoke"], "(--suite and --model given)"),
        (
            ["run", "--model", "glm-4.5", "--resume", "x"],
            "leave out --case, --last-failed, --model",
        ),
    ],
)
def test_what_a_model_is_asked_wrongly_is_one_line_and_exit_code_3(engine, capsys, argv, text):
    assert cli.main(argv) == 3
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
