"""`explain` prints the choice of a backend as a table."""

import pytest

from harness import cli

AUTO = "m:32-n:512-k:512-e:8-topk:2-experts:auto"


def printed(capsys, *argv):
    code = cli.main(["explain", *argv])
    return code, capsys.readouterr().out.splitlines()


def row_of(lines, name):
    return next(line for line in lines if line.startswith(f"{name} ")).split()


def test_the_choice_and_each_refusal_with_code_and_text(capsys):
    code, lines = printed(capsys, "--case", AUTO, "--platform", "rocm_gfx950")
    assert code == 0
    assert lines[0] == f"case      {AUTO}"
    assert lines[1].startswith("platform  rocm_gfx950 (fp4_mma, ")
    assert "torch " in lines[2]
    assert lines[3] == "packages  those that rows need count as installed"
    assert row_of(lines, "triton") == ["triton", "chosen"]
    assert row_of(lines, "torch_loop") == ["torch_loop", "yes"]
    assert row_of(lines, "flashinfer_cutlass")[:4] == [
        *("flashinfer_cutlass", "no", "platform_lacks_feature", "needs")
    ]


def test_the_order_has_its_reason(capsys):
    _, lines = printed(capsys, "--case", f"{AUTO}-quant:fp8_block", "--platform", "rocm_gfx950")
    assert lines[4].startswith("order     serving stacks take AITER's kernels first")


def test_a_choice_that_needs_packages_is_told_beside_that_of_a_plan(capsys):
    case = f"{AUTO}-quant:fp8_block"
    _, lines = printed(capsys, "--case", case, "--platform", "cuda_sm100")
    verdict = "verdict   runs with experts:flashinfer_trtllm"
    assert lines[5] in (
        f"{verdict}; `plan` takes triton, by the packages that are installed here",
        verdict,  # where FlashInfer is installed
    )
    assert row_of(lines, "flashinfer_trtllm") == ["flashinfer_trtllm", "chosen"]


def test_a_refused_case_says_so(capsys):
    case = AUTO.replace("auto", "torch_grouped") + "-quant:fp8_block"
    code, lines = printed(capsys, "--case", case, "--platform", "cuda_sm90")
    assert code == 4
    assert lines[5].startswith("verdict   refused: weight_format_unsupported: torch_grouped: ")
    assert row_of(lines, "triton") == ["triton", "chosen"]


def test_here_packages_are_judged_as_they_are(capsys):
    _, lines = printed(capsys, "--case", AUTO)
    assert lines[3] == "packages  as installed here"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--case", "m:1"], "lacks n, k"),
        (["--case", AUTO, "--platform", "cuda_sm9"], "did you mean 'cuda_sm90'?"),
        ([], "required: --case"),
    ],
)
def test_usage(argv, text, capsys):
    assert cli.main(["explain", *argv]) == 3
    assert text in capsys.readouterr().err
