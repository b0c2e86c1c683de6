"""A `run.json` to start tests of folders from."""

from harness.record.run_info import RefusedCase, RunInfo, RunMachine, RunOptions


def run_info(suite="smoke", cases=(), refused=(), **changes):
    """refused: (case, code, text) each."""
    fields = {
        "options": RunOptions(time_limit=60.0, retries=0),
        "platform": RunMachine(name="cpu"),
        **changes,
    }
    points = tuple(RefusedCase(case=c, code=code, text=text) for c, code, text in refused)
    return RunInfo(suite=suite, cases=tuple(cases), refused=points, **fields)
