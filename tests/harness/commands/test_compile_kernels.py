"""`compile`: which cases it takes, what counts as a failure, and what it prints."""

import pytest

from harness import cli
from harness.commands import compile_kernels
from harness.commands.compile_kernels import ChipTotals, failures_of, ids_for, table
from harness.errors import InfrastructureError
from harness.matrix.case import MoETestConfig
from moe.kernels.aot_warnings import Accepted
from moe.platforms import PLATFORMS, platform
from tests.harness.commands.one_suite import MATRIX

CASE = MoETestConfig(m=8, n=128, k=128, num_experts=4, top_k=2, experts="triton")
GOOD = {
    "chip": "sm90",
    "kernel": "_combine",
    "label": "_combine(*bf16)",
    "shared_bytes": 100,
    "seconds": 1.5,
    "warnings": [],
    "refusal": None,
    "cached": False,
}


def test_cases_of_our_kernels_once_for_all_that_no_kernel_sees():
    points = [
        *(CASE, CASE.replace(seed=1), CASE.replace(exact=True)),
        *(CASE.replace(experts="torch_loop"), CASE.replace(experts="vllm_triton")),
        CASE.replace(experts="own", layer="transformers_mixtral"),
        CASE.replace(m=9),
    ]
    assert ids_for(points, "cuda_sm90") == [CASE.id, CASE.replace(m=9).id]


def test_how_a_router_chooses_matters_if_it_is_a_kernel_of_ours():
    """Others need not even be installed: `triton_kernels` is not, where kernels are compiled."""
    ours = CASE.replace(router="triton_softmax")
    points = [
        *(CASE.replace(router="triton_kernels"), CASE.replace(router="sigmoid", router_scale=2.5)),
        *(CASE.replace(logits="ties"), CASE.replace(padding="end"), CASE.replace(gate=True)),
        *(ours, ours.replace(renormalize=False)),
    ]
    expected = [CASE.id, ours.id, ours.replace(renormalize=False).id]
    assert ids_for(points, "cuda_sm90") == expected


def test_how_tokens_are_sent_matters_if_kernels_of_ours_send_them():
    layout = {"dp_size": 2, "use_ep": True}
    points = [CASE.replace(all2all=name, **layout) for name in ("naive", "all_to_all", "symm_mem")]
    plain = CASE.replace(**layout)
    assert ids_for(points, "cuda_sm90") == [plain.id, points[-1].id]


def test_what_a_chip_refuses_is_not_compiled_for_it():
    fp8 = CASE.replace(quant="fp8_block")
    assert ids_for([fp8], "cuda_sm90") == [fp8.id]
    assert ids_for([fp8], "rocm_gfx942") == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, None),
        ({"refusal": "ValueError: no"}, "refused: ValueError: no"),
        ({"shared_bytes": 201}, "uses 201 bytes of shared memory, more than the 200 of sm90"),
        ({"warnings": ["odd"]}, "warning without a reason in moe/kernels/aot_warnings.py: odd"),
    ],
)
def test_failures(change, text):
    texts = list(failures_of(GOOD | change, 200))
    assert len(texts) == (text is not None)
    assert text is None or texts[0].startswith(text)


def test_an_accepted_warning_is_counted(monkeypatch):
    listed = (Accepted(pattern="odd", chips=("sm90",), reason="it is only odd"),)
    monkeypatch.setattr("moe.kernels.aot_warnings.unlisted.__defaults__", (listed,))
    of = ChipTotals(limit=200)
    of.add(GOOD | {"warnings": ["odd"]})
    of.add(GOOD | {"kernel": "_count", "cached": True})
    assert (of.done, of.cached, of.seconds, of.failures) == (2, 1, 1.5, [])
    assert table({"sm90": of})[1].split() == [
        *("sm90", "2", "0", "100", "of", "200", "B", "2", "s", "1", "0")
    ]
    assert table({"sm90": of})[2] == "sm90: accepted 1x: odd"


@pytest.fixture
def worker(monkeypatch):
    """A worker that reports what the test says; test_compile_worker.py has real ones."""
    events = []
    monkeypatch.setattr(compile_kernels, "worker", lambda ids, cache, jobs: iter(events))
    return events


def compile_with(tmp_path, experts="triton"):
    path = tmp_path / "matrix.yaml"
    path.write_text(MATRIX.format(experts=experts))
    return cli.main(["compile", "--config", str(path), "--platform", "cuda_sm90"])


def test_exit_codes(worker, tmp_path, capsys):
    worker += [{"recorded": {"sm90": 1}, "seconds": 0.5}, GOOD]
    assert compile_with(tmp_path) == 0
    assert "1 binaries, 0 failure(s)" in capsys.readouterr().out
    worker.append(GOOD | {"refusal": "ValueError: no"})
    assert compile_with(tmp_path) == 1
    assert "FAILED sm90: _combine(*bf16): refused: ValueError: no" in capsys.readouterr().out
    assert compile_with(tmp_path, "torch_loop") == 4


def test_a_chip_for_which_nothing_was_compiled_fails(worker, tmp_path, capsys):
    worker.append({"recorded": {"sm90": 0}, "seconds": 0.5})
    assert compile_with(tmp_path) == 1
    text = "case(s) launched no kernel, so nothing was compiled"
    assert text in capsys.readouterr().out


def test_a_case_that_cannot_be_recorded_fails(worker, tmp_path, capsys):
    worker += [
        {"failed": "m:1: NotImplementedError: no data"},
        {"failed": "m:2: NotImplementedError: no data"},
    ]
    assert compile_with(tmp_path) == 1
    assert (
        "FAILED 2 case(s), such as m:1, cannot be recorded: NotImplementedError: no data"
        in capsys.readouterr().out
    )


def test_a_huge_suite_is_left_out_unless_it_is_named(worker, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(compile_kernels, "LARGEST", 0)
    assert compile_with(tmp_path) == 4
    assert "suite one has 1 points, more than 0, and is left out" in capfd.readouterr().out
    worker += [{"recorded": {"sm90": 1}, "seconds": 0.5}, GOOD]
    path = str(tmp_path / "matrix.yaml")
    argv = ["compile", "--config", path, "--platform", "cuda_sm90", "--suite", "one"]
    assert cli.main(argv) == 0


def test_suites_that_are_neither_named_nor_included_are_told(tmp_path):
    path = tmp_path / "matrix.yaml"
    two = MATRIX.format(experts="triton").partition("suites:\n")[2].replace("  one:", "  two:", 1)
    three = two.replace("  two:", "  three:").replace("blocks:", "include: [one]\n    blocks:")
    path.write_text(MATRIX.format(experts="triton") + two + three)
    text = "not compiled: {}; `--suite NAME` compiles it\n"
    assert compile_kernels.left_out(["one"], path) == text.format("two, three")
    assert compile_kernels.left_out(["three"], path) == text.format("two")
    assert compile_kernels.left_out(["two", "three"], path) == ""


def test_an_unknown_suite_leaves_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "matrix.yaml").write_text(MATRIX.format(experts="triton"))
    argv = ["--config", "matrix.yaml", "--platform", "cuda_sm90", "--suite", "nosuch"]
    assert cli.main(["compile", *argv]) == 3
    assert "nosuch" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["matrix.yaml"]


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--platform", "cpu"], "--platform cpu: Triton compiles nothing for it (chips: cuda_sm80"),
        (["--cache", "taken/cache"], "--cache taken/cache: cannot make this folder"),
    ],
)
def test_what_cannot_be_compiled_is_told_before_anything_is_planned(
    argv, text, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("")
    assert cli.main(["compile", *argv]) == 3
    assert capsys.readouterr().err.startswith(text)


def test_a_worker_that_dies_is_the_machines_fault(tmp_path):
    with pytest.raises(InfrastructureError, match="ended with code 1"):
        list(compile_kernels.worker({"no_such_chip": [CASE.id]}, tmp_path, 1))


def test_by_default_four_chips_are_compiled_for():
    rows = [PLATFORMS.row(name) for name in compile_kernels.DEFAULT_CHIPS]
    assert [row.arch for row in rows] == ["sm90", "sm100", "gfx942", "gfx950"]
    assert all(platform(row.name).triton_target for row in rows)
