"""A run with every kind of end, for the tests of reports."""

from harness.record.result import CaseResult, Verdict
from tests.harness.record.infos import run_info

PLAIN = "m:32-n:256-k:128-e:8-topk:2-experts:torch_loop"
CASES = [
    PLAIN,
    f"{PLAIN}-tp:2",
    f"{PLAIN}-dp:2-tp:2-ep-sp",
    f"{PLAIN}-quant:fp8_block",
    f"{PLAIN}-seed:1",
]
REFUSED = [(f"{PLAIN}-n:{n}", "block_straddles_shard", f"cuts at {n} \x1b[1m<&") for n in (1, 2)]
INFO = run_info(versions={"torch": "2.13.0"}, cases=CASES, refused=REFUSED)
BAD = CaseResult(
    case_id=CASES[1],
    verdict=Verdict.FAILED,
    seconds=2.5,
    messages=("rank 0,1: off by \x1b[31m3\x1b[0m\nsecond <line> & more", "rank 1: also\x00this"),
    log="logs/tp.txt",
)
RESULTS = [
    CaseResult(case_id=CASES[0], verdict=Verdict.PASSED, seconds=0.5),
    BAD,
    CaseResult(case_id=CASES[2], verdict=Verdict.HUNG, seconds=9.0, reason="time_limit"),
    CaseResult(
        case_id=CASES[3], verdict=Verdict.FLAKY, seconds=0.1, messages=("attempt 1 was failed",)
    ),
]
