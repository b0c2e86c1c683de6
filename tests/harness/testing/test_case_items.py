"""Each verdict as pytest shows it: never passed unless the case was, in the harness's own words."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness.record.result import CaseResult, Verdict
from harness.testing.case_items import CaseItem
from tests.harness.testing import pytest_runs
from tests.harness.testing.pytest_runs import BASE

MEMBERS = """
import os, signal
from typing import ClassVar
from moe.experts.torch_loop import TorchLoopExperts
from moe.spec import ANY, MemberSpec, Needs

def row(name):
    target = f"broken:{name}"
    return MemberSpec(name=target, target=target, needs=Needs(dtypes=ANY, formats=ANY))

class Doubled(TorchLoopExperts):
    row = row("Doubled")
    def apply(self, x, routing):
        return 2 * super().apply(x, routing)

class Known(Doubled):
    row = row("Known")

class Raises(TorchLoopExperts):
    row = row("Raises")
    def apply(self, x, routing):
        raise RuntimeError("no such kernel")

class Dies(TorchLoopExperts):
    row = row("Dies")
    def apply(self, x, routing):
        os.kill(os.getpid(), signal.SIGKILL)

class Held(Doubled):
    row = row("Held")
"""
NAMES = ("Doubled", "Known", "Raises", "Dies", "Held")
FILE = f"""\
version: 1
defaults: {{shapes: [[2, 256, 128]], num_experts: [8], top_k: [2]}}
suites:
  small:
    description: x
    time_limit_s: 60
    blocks:
      - experts: [torch_loop, flashinfer_cutlass]
      - experts: [{", ".join(f'"broken:{name}"' for name in NAMES)}]
"""
KNOWN = """\
version: 1
entries:
  - {case: "*broken:Known*", issue: "https://host/1", expires: 2999-01-01, verdicts: [failed]}
  - {case: "*broken:Held*", issue: "https://host/2", expires: 2020-01-01, quarantine: true}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run with a case for each verdict."""
    folder = tmp_path_factory.mktemp("verdicts")
    files = {"m.yaml": FILE, "broken.py": MEMBERS, "known.yaml": KNOWN}
    known = ("--moe-known-failures", "known.yaml", "-o", "junit_family=xunit1")
    return pytest_runs.run(folder, *known, files=files)


def id_of(name):
    return BASE.replace("torch_loop", name if name.islower() else f"broken:{name}")


def case(done, name):
    return done.testcases()[id_of(name)]


def properties(case):
    return {p.get("name"): p.get("value") for p in case.iter("property")}


def test_the_run_fails_and_leaves_nothing_behind(done):
    assert "4 failed, 1 passed, 1 skipped, 1 xfailed" in done.text
    assert (done.code, done.left) == (1, [])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Doubled", "failed: likely cause"),
        ("Raises", "RuntimeError: no such kernel"),
        ("Dies", "ended by SIGKILL"),
        ("Held", "failed: not launched: "),
    ],
)
def test_a_failure_is_told_in_the_harness_own_words(done, name, words):
    (failure,) = case(done, name).iter("failure")
    assert words in failure.text
    assert f"repeat: python -m harness run --case {id_of(name)}" in failure.text
    assert "pytest_plugin" not in failure.text
    assert "case_items.py" not in failure.text


def test_the_summary_shows_the_verdict_and_the_headline(done):
    line = next(
        line for line in done.text.splitlines() if line.startswith("FAILED") and "Dies" in line
    )
    assert "Failed: crashed: rank 0" in line


def test_an_expected_failure_is_expected(done):
    (skipped,) = case(done, "Known").iter("skipped")
    assert skipped.get("type") == "pytest.xfail"
    assert "https://host/1" in skipped.get("message")


def test_a_refused_case_is_skipped_with_its_reason_code(done):
    (skipped,) = case(done, "flashinfer_cutlass").iter("skipped")
    assert skipped.get("message").startswith("platform_lacks_feature: flashinfer_cutlass: needs")


def test_properties_have_case_seed_verdict_and_members(done):
    found = properties(case(done, "torch_loop"))
    assert found["moe_case"] == BASE
    assert (found["moe_seed"], found["moe_verdict"]) == ("0", "passed")
    assert found["moe_experts"] == "TorchLoopExperts"
    verdicts = [properties(case(done, name))["moe_verdict"] for name in NAMES]
    assert verdicts == ["failed", "known", "error", "crashed", "failed"]
    assert properties(case(done, "flashinfer_cutlass"))["moe_verdict"] == "skipped"


def test_the_place_of_a_case_is_its_block_in_the_matrix_file(done):
    place = [
        (case(done, name).get("file"), case(done, name).get("line"))
        for name in ("torch_loop", "Dies")
    ]
    assert place == [("m.yaml", "7"), ("m.yaml", "8")]  # JUnit counts from 0


def test_logs_of_failed_cases_are_kept_and_named(done):
    (failure,) = case(done, "Dies").iter("failure")
    (log,) = (done.folder / "runs").glob(f"*-pytest-small/logs/{id_of('Dies')}.log")
    assert log.name in failure.text


@pytest.mark.parametrize("verdict", list(Verdict))
def test_no_verdict_but_passed_passes(tmp_path, verdict):
    """Of a case whose run ended so: a stand-in for the run, and the item's own decision."""
    result = CaseResult(case_id=BASE, verdict=verdict, messages=("rank 0: its words",))
    run = SimpleNamespace(run=lambda case: result, folder=tmp_path)
    file = SimpleNamespace(run=run)
    item = SimpleNamespace(case=None, user_properties=[], getparent=lambda kind: file)
    if verdict is Verdict.PASSED:
        CaseItem.runtest(item)
    else:
        kind = pytest.xfail if verdict is Verdict.KNOWN else pytest.fail
        with pytest.raises(kind.Exception, match="rank 0: its words"):
            CaseItem.runtest(item)
    assert item.user_properties == [("moe_verdict", str(verdict))]
