"""How long cases take: recorded, or estimated in the recorded unit."""

from harness.matrix.case import MoETestConfig
from harness.plan.durations import START_SECONDS, Durations, of_run
from harness.record.events import CaseEnded, GangStarted
from harness.record.result import CaseResult, Verdict
from harness.record.run_folder import RunFolder
from tests.harness.record.infos import run_info

BASE = "m:2-n:256-k:128-e:8-topk:2-experts:torch_loop"


def test_a_run_tells_seconds_starts_and_what_failed(tmp_path):
    ends = [
        (BASE, Verdict.FAILED, 4.0),
        (BASE, Verdict.PASSED, 2.0),
        (f"{BASE}-seed:1", Verdict.HUNG, 6.0),
    ]
    with RunFolder.create(tmp_path / "run", run_info(cases=[BASE])) as folder:
        for seconds in (1.0, 9.0, 2.0):
            folder.append(
                GangStarted(time=0, gang=1, world_size=2, transport="gloo", seconds=seconds)
            )
        for case, verdict, seconds in ends:
            result = CaseResult(case_id=case, verdict=verdict, seconds=seconds)
            folder.append(CaseEnded(time=0, gang=1, result=result))
    recorded = of_run(tmp_path / "run")
    case = MoETestConfig.from_id(BASE)
    assert recorded.of(case) == 2.0
    assert recorded.failed == {f"{BASE}-seed:1"}
    assert recorded.start(2) == recorded.start(4) == 2.0
    unknown = recorded.of(case.replace(seed=2))
    assert 2.0 < unknown < 6.0  # as estimated, scaled by what was recorded of the same sizes


def test_without_a_run_sizes_decide():
    case = MoETestConfig.from_id(BASE)
    assert Durations().of(case.replace(m=512, num_experts=64)) > Durations().of(case) > 0
    assert Durations().start(2) == START_SECONDS
