"""What `--require` names is there, or the command ends with 75 and says all that is not."""

import re
from pathlib import Path

import pytest

from harness import cli
from harness.errors import InfrastructureError, UsageError
from harness.plan import machine
from harness.plan.requirements import check
from moe.experts import EXPERTS
from moe.spec import MemberSpec, Needs

CPU = machine.planned_for("cpu")
HOPPERS = machine.planned_for("cuda_sm90", 2)


@pytest.mark.parametrize(
    ("words", "where"),
    [
        ([], CPU),
        (["cpu", "experts=torch_loop", "quant=fp8_block", "all2all=local"], CPU),
        (["cuda_sm90", "cuda", "sm90", "fp8_mma", "devices=2", "devices=1"], HOPPERS),
        (["experts=flashinfer_cutlass", "experts=triton", "quant=int8_channel"], HOPPERS),
        (["all2all=allgather_reducescatter", "experts=moe.experts.torch_loop:Loop"], HOPPERS),
    ],
)
def test_what_is_there_is_met(words, where, monkeypatch):
    from moe.experts import torch_loop

    row = MemberSpec(name="loop", target="moe.experts.torch_loop:Loop")
    monkeypatch.setattr(torch_loop, "Loop", type("Loop", (), {"row": row}), raising=False)
    check(words, where)


@pytest.mark.parametrize(
    ("word", "where", "why"),
    [
        ("cuda_sm90", CPU, "the platform is cpu"),
        ("rocm_gfx950", HOPPERS, "the platform is cuda_sm90"),
        ("mx_mma", HOPPERS, "the platform is cuda_sm90"),
        ("devices=1", CPU, "there are 0"),
        ("devices=3", HOPPERS, "there are 2"),
        (
            "experts=flashinfer_cutlass",
            CPU,
            "platform_lacks_feature: flashinfer_cutlass: needs cuda, fp8_mma, "
            "which cpu does not have",
        ),
    ],
)
def test_what_is_not_there_is_named_with_its_reason(word, where, why):
    with pytest.raises(InfrastructureError) as caught:
        check(["int8_mma" if where is HOPPERS else "cpu", word], where)
    lines = str(caught.value).splitlines()
    assert lines[0] == "this machine does not meet --require:"
    assert lines[1] == f"  {word}: {why}"
    assert lines[2].startswith(f"it has: {where.platform.name} (")


def test_everything_that_is_not_met_is_named_at_once_with_what_there_is():
    with pytest.raises(InfrastructureError) as caught:
        check(["sm90", "devices=2", "experts=flashinfer_cutlass", "sm90", "experts=triton"], CPU)
    text = str(caught.value)
    assert re.findall(r"^  (\S+):", text, re.MULTILINE) == [
        "sm90",
        "devices=2",
        "experts=flashinfer_cutlass",
    ]
    there = text.splitlines()[-1]
    assert "devices=0" in there
    assert re.search(r"experts [^;]*torch_loop", there)
    assert not re.search(r"experts [^;]*flashinfer_cutlass", there)
    assert "python -m harness doctor" in there


@pytest.mark.parametrize("family", ["experts", "all2all", "quant"])
def test_a_member_that_no_case_can_use_is_not_met(family, monkeypatch):
    from harness.plan import requirements

    table = requirements._FAMILIES[family]
    row = next(iter(table))
    needs = Needs(features=frozenset({"moon"}))
    lunar = type(row)(**{**vars(row), "name": "lunar", "needs": needs})
    monkeypatch.setattr(table, "_rows", {**table.rows, "lunar": lunar})
    with pytest.raises(InfrastructureError, match=f"{family}=lunar: .*needs moon"):
        check([f"{family}=lunar"], CPU)


def test_a_package_that_is_missing_here_makes_a_member_unmet(monkeypatch):
    row = MemberSpec(name="packed", target="x:Y", needs=Needs(packages=("no_such_package_x",)))
    monkeypatch.setattr(EXPERTS, "_rows", {**EXPERTS.rows, "packed": row})
    check(["experts=packed"], CPU)  # of a machine from afar, packages are not judged
    with pytest.raises(InfrastructureError, match="package 'no_such_package_x' is not installed"):
        check(["experts=packed"], machine.detect())


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("cuda_sm9", "no platform, feature or key is called 'cuda_sm9', did you mean 'cuda_sm90'?"),
        ("devises=2", "'devises', did you mean 'devices'?"),
        ("expert=triton", "'expert', did you mean 'experts'?"),
        ("experts=tritn", "no experts backend is called 'tritn', did you mean 'triton'?"),
        ("all2all=locl", "did you mean 'local'?"),
        (
            "quant=fp8_blok",
            "no quantization method is called 'fp8_blok', did you mean",
        ),
        ("devices=0", "give a number of at least 1, as devices=2"),
        ("devices=two", "give a number of at least 1, as devices=2"),
        ("devices=", "give a number of at least 1"),
        ("devices", "did you mean 'devices='?"),
        ("experts=a.b.C", "a class is named with a colon, as 'a.b:C'"),
        ("experts=nowhere_x:Y", "cannot load experts 'nowhere_x:Y'"),
        ("", "no platform, feature or key is called ''"),
    ],
)
def test_a_word_that_means_nothing_is_a_usage_error_before_all_else(word, hint):
    with pytest.raises(UsageError) as caught:
        check(["devices=8", word], CPU)
    assert str(caught.value).startswith(f"--require {word}: ")
    assert hint in str(caught.value)


# The commands.


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "--suite", "smoke"],
        ["power", "--suite", "smoke"],
        ["fuzz", "--experts", "torch_loop"],
        ["list"],
        ["plan"],
    ],
)
def test_a_command_whose_machine_lacks_something_ends_with_75(engine, capsys, argv):
    unmet = ["--require", "cuda_sm90", "--require", "devices=2", "--require", "experts=torch_loop"]
    assert cli.main([*argv, *unmet]) == 75
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "  cuda_sm90: the platform is cpu\n  devices=2: there are 0\nit has: " in captured.err
    assert not engine.calls
    assert not Path("runs").exists()
    assert cli.main([*argv, "--require", "gpu"]) == 3
    assert "no platform, feature or key is called 'gpu'" in capsys.readouterr().err


def test_a_run_whose_machine_has_everything_runs(engine, capsys):
    words = ["--require", "cpu", "--require", "experts=torch_loop"]
    assert cli.main(["run", "--suite", "smoke", "--out", "here", *words]) == 0
    assert cli.main(["run", "--resume", "here", "--require", "devices=1"]) == 75
    assert cli.main(["run", "--resume", "here", *words]) == 0


def test_another_chip_is_asked_for_itself(engine, capsys):
    words = ["--require", "cuda_sm90", "--require", "devices=4"]
    assert cli.main(["list", "--platform", "cuda_sm90", "--devices", "4", *words]) == 0
    assert cli.main(["plan", "--platform", "cuda_sm90", "--devices", "2", *words]) == 75


def test_a_run_that_has_been_needs_no_machine(engine, capsys):
    cli.main(["run", "--suite", "smoke", "--out", "here"])
    assert cli.main(["power", "--from", "here", "--require", "cpu"]) == 3
    assert (
        "--from reads an earlier run and runs nothing: leave out --suite" in capsys.readouterr().err
    )
