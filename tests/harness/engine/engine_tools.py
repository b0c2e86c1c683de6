"""Plans, and a look at real processes, for the tests of the engine."""

from __future__ import annotations

import atexit
import os
import time
from pathlib import Path
from types import SimpleNamespace

from harness.engine.forkserver_pool import Pool
from harness.engine.run_options import RunOptions
from harness.engine.scheduler import run
from harness.record.events import CaseEnded

HERE = Path(__file__).parent
EXECUTOR = "tests.harness.engine.engine_faults:run_case"


def plan(*cases, limit: float = 30.0, jobs=None, memory_share: float = 0.0):
    """One job of these cases, or `jobs` (tuples of cases) with a gang each."""
    jobs = jobs or [cases]
    made = [
        SimpleNamespace(
            world_size=group[0].world_size,
            device="cpu",
            transport="gloo",
            cases=tuple(group),
            time_limit=limit,
            memory_share=memory_share,
        )
        for group in jobs
    ]
    return SimpleNamespace(jobs=tuple(made), refused=(), machine=None)


_POOL: list[Pool] = []


def shared_pool() -> Pool:
    """One pool for all tests of the process, so that torch is imported once."""
    if not _POOL:
        _POOL.append(Pool())
        atexit.register(_POOL[0].close)
    return _POOL[0]


def events_of(plan, folder: Path, **options):
    options = {"executor": EXECUTOR, "rank_options": {"folder": str(folder)}, **options}
    return list(run(plan, RunOptions(log_dir=folder / "logs", **options), shared_pool()))


def results(events):
    """Case id -> result; exactly one for each."""
    ended = [event.result for event in events if isinstance(event, CaseEnded)]
    assert len({result.case_id for result in ended}) == len(ended)
    return {result.case_id: result for result in ended}


def marked(mark: str) -> list[int]:
    """Living processes with these characters in the environment that they were started with."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            hit = mark.encode() in (entry / "environ").read_bytes()
        except OSError:
            continue
        if hit and state not in "ZX" and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def wait_for(condition, limit: float = 15.0):
    """The first true value of `condition()`; its last value once the limit is over."""
    deadline = time.monotonic() + limit
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value
