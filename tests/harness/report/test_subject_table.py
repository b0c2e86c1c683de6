"""What runs showed of other people's code is counted by subject, version and machine."""

from harness.record.events import CaseEnded
from harness.record.result import CaseResult, Verdict
from harness.record.run_folder import RunFolder
from harness.report import subject_table
from harness.report.tables import view
from tests.harness.record.infos import run_info

SIZES = "m:8-n:64-k:64-e:4-topk:2-experts"
OURS = f"{SIZES}:torch_loop"
MINE = f"{SIZES}:mine.experts:Mine"
THEIRS = [f"{SIZES}:sglang_loop-seed:{seed}" for seed in range(1, 6)]
BOTH = f"{SIZES}:sglang_loop-router:vllm_cpu_softmax"
BLOCK = "m:8-n:64-k:64-e:4-topk:2-experts:own-layer:transformers_mixtral"
SGLANG, VLLM = {"sglang": "0.5.23"}, {"vllm": "0.33.0"}


def result(case_id, verdict=Verdict.PASSED, seconds=1.0, **more):
    return CaseResult(case_id=case_id, verdict=verdict, seconds=seconds, **more)


RESULTS = [
    result(OURS),
    result(MINE, assumed="as assumed"),
    result(THEIRS[0], versions=SGLANG),
    result(THEIRS[1], versions=SGLANG, seconds=3.0, assumed="as assumed"),
    result(THEIRS[2], Verdict.ERROR),  # a case that raised has no versions
    result(THEIRS[3], Verdict.KNOWN),
    result(THEIRS[4], Verdict.VACUOUS),
    result(BOTH, Verdict.FAILED, versions=SGLANG | VLLM, seconds=2.0),
    result(BLOCK),
]


def stored(path, results, **info):
    cases = [result.case_id for result in results] + [f"{BLOCK}-seed:9"]  # which did not run
    with RunFolder.create(path, run_info(cases=cases, **info)) as folder:
        for one in results:
            folder.append(CaseEnded(time=1.0, gang=1, result=one))
    return view(RunFolder.open(path))


def test_cases_are_counted_by_subject(tmp_path):
    run = stored(tmp_path / "one", RESULTS, versions={"transformers": "5.24.0"})
    head, *rows = subject_table.table([run])
    assert head[:3] == ("subject", "version", "machine")
    assert rows == [
        ("mine.experts:Mine", "-", "cpu", "1", "0", "1", "0", "1.0"),
        ("sglang_loop", "sglang 0.5.23", "cpu", "6", "1", "1", "1 error, 1 known, 1 failed", "1.0"),
        ("transformers_mixtral", "transformers 5.24.0", "cpu", "1", "1", "0", "0", "1.0"),
        ("vllm_cpu_softmax", "vllm 0.33.0", "cpu", "1", "0", "0", "1 failed", "2.0"),
    ]


def test_versions_are_apart_and_one_that_nothing_tells_is_a_question_mark(tmp_path):
    runs = [
        stored(tmp_path / "one", [result(THEIRS[0], versions=SGLANG)]),
        stored(tmp_path / "two", [result(THEIRS[0], versions={"sglang": "0.6"})]),
        stored(tmp_path / "three", [result(THEIRS[0], Verdict.ERROR)]),
    ]
    versions = [row[1] for row in subject_table.table(runs)[1:]]
    assert versions == ["sglang 0.5.23", "sglang 0.6", "sglang ?"]


def test_each_deviating_case_is_named(tmp_path):
    more = [result(f"{OURS}-seed:1", Verdict.FAILED)]  # of no subject
    assert subject_table.deviating([stored(tmp_path / "one", [*RESULTS, *more])]) == [
        f"error in one: {THEIRS[2]}",
        f"known in one: {THEIRS[3]}",
        f"failed in one: {BOTH}",
    ]
