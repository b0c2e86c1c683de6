"""How the table of checks is folded: in order, no exception hides another finding."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness import checks
from harness.checks import output_dtype, quantization_applied
from harness.checks.check import Check, Observation
from harness.checks.judge import run_table, verdict
from harness.engine.gang_channels import _leaves_peers_waiting
from harness.engine.messages import Done, Failed
from harness.execute import run_case
from harness.fixtures.phase_timer import Clock
from harness.record.result import Finding, Verdict
from moe.experts.torch_loop import TorchLoopExperts
from tests.harness.execute_ranks import case, context

pytestmark = pytest.mark.usefixtures("one_thread")


def raising(name, **fields):
    def run(_seen):
        raise IndexError("out of luck")

    return Check(name=name, run=run, **fields)


def finding(name, **fields):
    return Check(name=name, run=lambda seen: (Finding(check=name, text=name),), **fields)


def folded(*table):
    calls = [SimpleNamespace(number=0)]
    seen = Observation(subject=None, context=context(), calls=calls)
    return run_table(seen, table, Clock(context=context()))


def test_checks_run_in_order_and_see_what_was_found_before():
    seen = []

    def run(observation):
        seen.append([f.check for f in observation.findings])
        return ()

    folded(finding("a"), Check(name="b", run=run), finding("c"), Check(name="d", run=run))
    assert seen == [["a"], ["a", "c"]]


def test_a_check_that_does_not_apply_is_not_run():
    assert folded(raising("a", applies=lambda seen: False)).findings == ()


def test_an_exception_is_that_check_s_finding_and_hides_no_other():
    found = folded(finding("a"), raising("b"), finding("c")).findings
    assert [(f.check, f.verdict) for f in found] == [
        ("a", Verdict.FAILED),
        ("b", Verdict.ERROR),
        ("c", Verdict.FAILED),
    ]
    assert found[1].text.startswith("the check 'b' raised IndexError: out of luck\nTraceback")
    assert verdict(found) is Verdict.ERROR


def test_after_an_exception_a_rank_leaves_peers_waiting_collectives():
    """It cannot know where in them the others are; what needs no other rank is judged."""
    found = folded(raising("a"), finding("b", collective=True), finding("c")).findings
    assert [f.check for f in found] == ["a", "c"]
    found = folded(finding("a"), finding("b", collective=True)).findings
    assert [f.check for f in found] == ["a", "b"]


@pytest.mark.parametrize("broken", [quantization_applied, output_dtype])
def test_wrong_numbers_are_told_though_another_check_raises(monkeypatch, broken):
    """Whether that stands before or after the output's in the table."""
    real = TorchLoopExperts.apply
    monkeypatch.setattr(TorchLoopExperts, "apply", lambda self, *a: 2 * real(self, *a))
    table = [raising(c.name) if c is broken.CHECK else c for c in checks.all_checks()]
    monkeypatch.setattr(checks, "all_checks", lambda: table)
    found = run_case(case(m=8, all2all="local"), context())
    assert found.verdict is Verdict.ERROR
    assert "8 of 8 rows wrong" in found.messages[0]
    assert found.messages[-1].startswith(f"the check {broken.CHECK.name!r} raised IndexError")
    named = [cause.name for call in found.diagnosis.calls for cause in call.causes]
    assert "doubled" in named


def test_what_leads_is_a_rank_s_first_message(monkeypatch):
    real = TorchLoopExperts.apply
    monkeypatch.setattr(TorchLoopExperts, "apply", lambda self, *a: 2 * real(self, *a))
    leads = Check(name="z", run=lambda seen: (Finding(check="z", text="not it", leads=True),))
    table = [*checks.all_checks(), leads]
    monkeypatch.setattr(checks, "all_checks", lambda: table)
    found = run_case(case(m=8, all2all="local"), context())
    assert found.messages[0] == "not it"
    assert len(found.messages) > 1


def test_others_wait_in_vain_for_a_rank_whose_check_raised():
    """It joins no more collectives, so the engine gives the others its grace only."""
    raised = Done(passed=False, result={"verdict": str(Verdict.ERROR)})
    assert _leaves_peers_waiting(raised)
    assert _leaves_peers_waiting(Failed(traceback="x"))
    assert not _leaves_peers_waiting(Done(passed=False, result={"verdict": str(Verdict.FAILED)}))
    assert _leaves_peers_waiting(
        Done(passed=False, result={"verdict": str(Verdict.FAILED)}, poisoned=True)
    )
