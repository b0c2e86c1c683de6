"""The same faults under four runners: is the case named, does the next one pass, what is left?

`make bench-reliability`, or `python benchmarks/reliability.py [--runner NAME] [--fault NAME]`.
Each fault is made by the same function of tests/, before a healthy case in the same run. A run
that does not end is killed, as a CI job would be. When depends on the machine and its load: each
runner first has two healthy cases, and the limits are multiples of what they took.
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
NO_FAULT = f"{RANKS}:healthy"
# Name in tables -> function. Of each the first case must not pass, except where it says so.
FAULTS = {
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
MAY_PASS = {"setsid child", "50 children"}  # what counts is that no process is left
NEEDS_RANKS = {"missed collective"}
RUNNERS = {
    "harness": [],
    "spawn": ["reliability_peers.py::TestSpawn"],
    "MultiProcessTestCase": ["reliability_multiprocess.py::TestMultiProcess"],
    "pytest-xdist": ["reliability_peers.py::TestInWorker", "-n", "2"],
}
REQUIRED = {"MultiProcessTestCase": "expecttest", "pytest-xdist": "xdist"}
CASE_LIMIT = 4  # seconds of a case in the harness, from the ranks' start of it
CONTROL_LIMIT = 300  # seconds of the run of two healthy cases, by which limits are set
LEAST_LIMIT = 30  # seconds, start included, that any other run has
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
    limit: float = CONTROL_LIMIT  # seconds

    def text(self, *, may_pass: bool) -> str:
        named = bool(self.case) and (may_pass or self.case != "passed")
        case = (self.case or "not named") + ("" if named or not self.case else " (wrong)")
        after = "next passed" if self.healthy == "passed" else "next lost"
        end = f"{self.seconds:.0f} s" if self.ended else f"killed after {self.limit:.0f} s"
        return f"{case}, {after}, {self.left} left, {end}"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds of a run until it is killed, and of one test where the runner has such a limit.

    A test counts its limit from its start, which a MultiProcessTestCase spends on importing torch
    in each rank. A control is two such tests. A run must have the time for one test that reaches
    the limit, and another one.
    """

    run: float = CONTROL_LIMIT
    test: int = CONTROL_LIMIT

    @classmethod
    def after(cls, control: float) -> Limits:
        """Return limits that a run without a fault is far from. control: seconds that one took."""
        test = max(LEAST_LIMIT // 2, int(1.2 * control))
        return cls(run=max(LEAST_LIMIT, test + 1.3 * control), test=test)


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


def measure(runner: str, fault: str, limits: Limits) -> Line:
    """Run a fault and a healthy case under a runner, and end what is left afterwards."""
    mark = str(uuid.uuid4())
    environment = {
        **os.environ,
        MARK: mark,
        "FAULT": fault,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(":"),
        "DISTRIBUTED_TESTS_DEFAULT_TIMEOUT": str(limits.test),
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
            process.wait(limits.run)
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
        case=case, healthy=healthy, left=len(left), seconds=seconds, ended=ended, limit=limits.run
    )


def control(runner: str) -> Line:
    """Run two healthy cases under a runner, and return what became of them.

    Raises SystemExit if they do not pass: what faults do would then tell nothing.
    """
    line = measure(runner, NO_FAULT, Limits())
    if (line.case, line.healthy, line.ended) != ("passed", "passed", True):
        raise SystemExit(f"{runner}: healthy cases did not pass: {line.text(may_pass=True)}")
    return line


def _is_installed(runner: str) -> bool:
    return runner not in REQUIRED or importlib.util.find_spec(REQUIRED[runner]) is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runner", choices=RUNNERS, action="append", help="default: all")
    parser.add_argument("--fault", choices=FAULTS, action="append", help="default: all")
    parser.add_argument(
        "--control", type=float, metavar="S", help="seconds of two healthy cases; default: measured"
    )
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
    limits = dict.fromkeys(runners, Limits.after(chosen.control or 0))
    if chosen.control is None:
        lines = {runner: control(runner) for runner in runners}
        texts = (line.text(may_pass=True) for line in lines.values())
        print(f"| none | {' | '.join(texts)} |", flush=True)
        limits = {runner: Limits.after(line.seconds) for runner, line in lines.items()}
    for name in chosen.fault or FAULTS:
        cells = []
        for runner in runners:
            if runner == "pytest-xdist" and name in NEEDS_RANKS:
                cells.append("has no ranks")
            else:
                line = measure(runner, FAULTS[name], limits[runner])
                cells.append(line.text(may_pass=name in MAY_PASS))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
