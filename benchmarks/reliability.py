"""The same faults under four runners: is the case named, does the next one pass, what is left?

`make bench-reliability`, or `python benchmarks/reliability.py [--runner NAME] [--fault NAME]`.
Each fault is made by the same function of tests/, before a healthy case in the same run. A run
that does not end is killed after LIMITS, or LIMIT, seconds, as a CI job would be.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

ENGINE, RANKS = "tests.harness.engine.engine_faults", "tests.faults.rank_faults"
# Name in tables -> function. Of each the first case must not pass, except where it says so.
FAULTS = {
    "none": f"{RANKS}:healthy",
    "exit code 0": f"{ENGINE}:_exit_zero",
    "os._exit(7)": f"{ENGINE}:_os_exit",
    "SIGSEGV": f"{ENGINE}:_segfault",
    "SIGKILL": f"{ENGINE}:_sigkill",
    "SIGSTOP": f"{RANKS}:stopped",
    "sleep, SIGTERM ignored": f"{ENGINE}:_ignore_sigterm",
    "loop in Python": f"{ENGINE}:_spin",
    "deadlock in C": f"{RANKS}:deadlock_in_c",
    "missed collective": f"{ENGINE}:_miss_collective",
    "exception, others wait": f"{ENGINE}:_raise_while_others_wait",
    "setsid child": f"{ENGINE}:_setsid_grandchild",
    "50 children": f"{RANKS}:fifty_children",
}
MAY_PASS = {"none", "setsid child", "50 children"}  # what counts is that no process is left
NEEDS_RANKS = {"missed collective"}
RUNNERS = {
    "harness": [],
    "spawn": ["reliability_peers.py::TestSpawn"],
    "MultiProcessTestCase": ["reliability_multiprocess.py::TestMultiProcess"],
    "pytest-xdist": ["reliability_peers.py::TestInWorker", "-n", "2"],
}
REQUIRED = {"MultiProcessTestCase": "expecttest", "pytest-xdist": "xdist"}
CASE_LIMIT = 4  # seconds of a case in the harness, from the ranks' start of it
START_AND_CASE_LIMIT = 45  # seconds of a MultiProcessTestCase, which imports torch in each rank
LIMIT = 30.0  # seconds, start included; a run that is over it is killed
LIMITS = {"MultiProcessTestCase": 150.0}  # it has two such tests to end by its own limit
SETTLE = 1.0  # seconds after a run until its processes are counted
MARK = "RELIABILITY"


@dataclass(frozen=True, kw_only=True)
class Line:
    """What a runner made of a fault. case, healthy: its words, or "" if it never said them."""

    case: str
    healthy: str
    left: int  # processes
    seconds: float  # of the whole run
    ended: bool  # by itself
    limit: float = LIMIT  # seconds

    def text(self, *, may_pass: bool) -> str:
        named = bool(self.case) and (may_pass or self.case != "passed")
        case = (self.case or "not named") + ("" if named or not self.case else " (wrong)")
        after = "next passed" if self.healthy == "passed" else "next lost"
        end = f"{self.seconds:.0f} s" if self.ended else f"killed after {self.limit:g} s"
        return f"{case}, {after}, {self.left} left, {end}"


def run_harness(fault: str, report: Path) -> None:
    """Run the fault and a healthy case in the engine; write a line for each verdict."""
    tools = importlib.import_module("tests.harness.engine.engine_tools")
    module, _, name = fault.partition(":")
    faults = importlib.import_module(module)
    if module == ENGINE:
        cases = [faults.case(name.removeprefix("_")), faults.case("none", m=9)]
    else:
        cases = [faults.case(getattr(faults, name)), faults.case(faults.healthy, m=9)]
    plan = tools.plan(*cases, limit=float(CASE_LIMIT))
    events = tools.events_of(plan, report.parent, executor=f"{module}:run_case")
    verdicts = [str(result.verdict) for result in tools.results(events).values()]
    report.write_text("\n".join(verdicts))


def _command(runner: str, fault: str, report: Path) -> list[str]:
    if runner == "harness":
        return [sys.executable, __file__, "--one", fault, str(report)]
    test, *options = RUNNERS[runner]
    file = str(Path(__file__).with_name(test))
    quiet = ["-q", "-c", os.devnull, "--rootdir", str(ROOT), "-p", "no:cacheprovider"]
    return [sys.executable, "-m", "pytest", *quiet, *options, f"--junitxml={report}", file]


def _cases(runner: str, report: Path) -> tuple[str, str]:
    """Return the words for both cases; empty ones if the runner wrote no report."""
    if not report.exists():
        return "", ""
    if runner == "harness":
        case, healthy = report.read_text().splitlines()
        return case, healthy
    words = {"test_fault": "", "test_healthy": ""}
    for element in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - pytest wrote it
        is_bad = any(element.find(tag) is not None for tag in ("failure", "error"))
        name = next((n for n in words if n in element.attrib["name"]), "")
        words[name] = "failed" if is_bad else "passed"
    return words["test_fault"], words["test_healthy"]


def _marked(mark: str) -> list[int]:
    """Return the living processes that were started with this mark."""
    pids = []
    for entry in Path("/proc").iterdir():
        try:
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            is_marked = mark.encode() in (entry / "environ").read_bytes()
        except OSError:
            continue
        if is_marked and state not in "ZX":
            pids.append(int(entry.name))
    return pids


def measure(runner: str, fault: str) -> Line:
    """Run a fault and a healthy case under a runner, and end what is left afterwards."""
    mark, limit = str(uuid.uuid4()), LIMITS.get(runner, LIMIT)
    environment = {
        **os.environ,
        MARK: mark,
        "FAULT": fault,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(":"),
        "DISTRIBUTED_TESTS_DEFAULT_TIMEOUT": str(START_AND_CASE_LIMIT),
    }
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        report, start = Path(folder) / "report", time.monotonic()
        process = subprocess.Popen(
            _command(runner, fault, report),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(limit)
            ended = True
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            ended = False
        seconds = time.monotonic() - start
        time.sleep(SETTLE)
        left = _marked(f"{MARK}={mark}")
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        case, healthy = _cases(runner, report)
    return Line(
        case=case, healthy=healthy, left=len(left), seconds=seconds, ended=ended, limit=limit
    )


def _is_installed(runner: str) -> bool:
    return runner not in REQUIRED or importlib.util.find_spec(REQUIRED[runner]) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runner", choices=RUNNERS, action="append", help="default: all")
    parser.add_argument("--fault", choices=FAULTS, action="append", help="default: all")
    parser.add_argument("--one", nargs=2, metavar=("FAULT", "REPORT"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        run_harness(chosen.one[0], Path(chosen.one[1]))
        return
    runners = chosen.runner or list(RUNNERS)
    for runner in [r for r in runners if not _is_installed(r)]:
        if chosen.runner:
            parser.error(f"--runner {runner} needs the package {REQUIRED[runner]}; install it")
        print(f"left out: {runner}, since {REQUIRED[runner]} is not installed\n")
        runners.remove(runner)
    print(f"| fault | {' | '.join(runners)} |\n|{'---|' * (len(runners) + 1)}")
    for name in chosen.fault or FAULTS:
        cells = []
        for runner in runners:
            if runner == "pytest-xdist" and name in NEEDS_RANKS:
                cells.append("has no ranks")
            else:
                line = measure(runner, FAULTS[name])
                cells.append(line.text(may_pass=name in MAY_PASS))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
