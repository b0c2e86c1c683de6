"""`--trace PATH`: the cases of a data set, the options that go with it, and later runs of them."""

from pathlib import Path

import pytest

from harness import cli
from harness.matrix.traces.trace_folder import read_folder
from harness.record.run_folder import RunFolder
from tests.harness.trace_sets import DEEPSEEK, RENORM, ROUTED, line, write


@pytest.fixture
def listed(tmp_path, capsys):
    def run(*argv):
        assert cli.main(["list", "--trace", str(tmp_path / "set"), *argv]) == 0
        lines = capsys.readouterr().out.splitlines()
        return [text for text in lines if text.startswith("m:")], lines

    write(tmp_path / "set", RENORM, ROUTED)
    return run


def test_each_workload_is_a_case_of_any_member(listed, tmp_path):
    ids, lines = listed("--experts", "torch_loop")
    assert [text.partition("-trace:")[0] for text in ids] == [
        "m:20-n:96-k:256-e:8-topk:2-experts:torch_loop",
        "m:20-n:96-k:256-e:8-topk:3-experts:torch_loop-logits_dtype:f32",
    ]
    note = "2 workload(s) of MoE layers, 1 definition(s) of other operations left out; weights are"
    assert any(note in text for text in lines)


def test_layouts_and_methods_multiply(listed):
    ids, _ = listed(
        "--experts", "torch_loop", "--layouts", "tp:1,tp:2", "--quant", "none,fp8_channel"
    )
    assert len(ids) == 2 * 2 * 2
    assert sum("-tp:2" in text for text in ids) == 4
    assert sum("-quant:fp8_channel" in text for text in ids) == 4


def test_the_folder_is_given_to_ranks_and_kept_for_later_runs(engine, tmp_path, monkeypatch):
    write(Path("set"), RENORM)
    assert cli.main(["run", "--trace", "set", "--experts", "torch_loop", "--out", "one"]) == 0
    (plan, options) = engine.calls[0]
    folder = str(Path("set").absolute())
    assert options.rank_options["trace"] == folder
    assert RunFolder.open(Path("one")).info.options.trace == folder
    (case,) = plan.cases
    assert cli.main(["run", "--case", case.id, "--trace", "set", "--out", "two"]) == 0
    assert engine.calls[1][1].rank_options["trace"] == folder


def test_the_last_failed_and_a_resumed_run_have_it_too(engine):
    from harness.record.result import Verdict

    write(Path("set"), RENORM, DEEPSEEK)
    engine.stop_after = (1, KeyboardInterrupt())
    run = ["run", "--trace", "set", "--experts", "torch_loop"]
    cli.main(run)
    engine.stop_after = None
    cli.main(["run", "--resume", str(next(Path("runs").iterdir()))])
    engine.verdicts = {engine.calls[0][0].cases[0].id: Verdict.FAILED}
    assert cli.main(run) == 1
    assert cli.main(["run", "--last-failed"]) == 1
    assert len(engine.calls) == 4
    assert {str(options.rank_options["trace"]) for _, options in engine.calls} == {
        str(Path("set").absolute())
    }


BASE = "m:1-n:64-k:64-e:4-topk:2-experts:torch_loop"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--case", f"{BASE}-trace:0123456789ab"], "is of a recorded workload: name its data set"),
        (
            ["--case", f"{BASE}-trace:0123456789ab", "--trace", "set"],
            "set' does not have: name the",
        ),
        (["--trace", "set", "--suite", "smoke"], "(--suite and --trace given)"),
        (["--trace", "set", "--model", "olmoe-1b-7b"], "(--model and --trace given)"),
        (["--trace", "set", "--tokens", "4"], "give --model NAME with --tokens"),
        (["--trace", "set", "--layouts", "ep:8/1"], "logits are recorded for all experts"),
        (["--trace", "nowhere"], "is not a data set of FlashInfer Trace: it has no folder"),
        (["--resume", "x", "--trace", "set"], "--trace, --out"),
    ],
)
def test_options_that_do_not_fit_are_usage_errors(engine, capsys, argv, text):
    write(Path("set"), RENORM)
    assert cli.main(["run", *argv]) == 3
    assert text in capsys.readouterr().err
    assert engine.calls == []


def test_a_data_set_without_tokens_selects_nothing(engine, capsys):
    data = line(RENORM)
    data["workload"]["axes"]["seq_len"] = 0
    data["workload"]["inputs"] = {n: {"type": "random"} for n in data["workload"]["inputs"]}
    write(Path("set"), lines=[data])
    assert cli.main(["run", "--trace", "set"]) == 4
    assert "'set' has no workload of an MoE layer with tokens" in capsys.readouterr().err


def test_recorded_inputs_go_with_no_others(engine, capsys):
    write(Path("set"), RENORM)
    (workload,) = read_folder(Path("set")).workloads
    case = f"{BASE}-exact-trace:{workload.line.digest}"
    assert cli.main(["run", "--trace", "set", "--case", case]) == 4
    output = capsys.readouterr()
    assert "trace_unsupported" in output.out + output.err
