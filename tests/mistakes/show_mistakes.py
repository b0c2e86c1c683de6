"""Runs every planted mistake through the real runner and prints what came of it, one a line.

python tests/mistakes/show_mistakes.py [--undeclared] [--gpu] [NAME ...]

--undeclared: the members' rows state no numerics, so customary ones are assumed. --gpu: the
mistakes that need one, instead of all others.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TRITON_INTERPRET", "1")
if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from harness.engine import scheduler
from harness.engine.forkserver_pool import Pool
from harness.engine.run_options import RunOptions
from harness.plan import machine
from harness.plan.plan import make_plan
from harness.record.events import CaseEnded
from harness.record.result import CaseResult, Verdict
from tests.mistakes.mistake import MISTAKES, NO_CAUSE, ON_GPU, SAYS, Mistake
from tests.mistakes.mistake_executor import TOLERANCE


@dataclass(frozen=True, kw_only=True)
class MistakeResult:
    """A mistake and what the runner said of it."""

    mistake: Mistake
    result: CaseResult

    @property
    def caught(self) -> bool:
        """Not by an exception: that would as well be a fault of what runs the mistakes."""
        return self.result.verdict in (Verdict.FAILED, Verdict.CRASHED, Verdict.HUNG)

    @property
    def named(self) -> tuple[str, ...]:
        """Causes, first those that explain the most calls on the most ranks, then all of the rows.

        As in `harness.report.failure_text` one that blames another rank, say, is another cause.
        """
        count: Counter[tuple[str, str]] = Counter()
        left: dict[tuple[str, str], tuple[bool, float]] = {}
        for call in (c for d in self.result.diagnoses for c in d.calls):
            for cause in call.causes:
                key = (cause.name, cause.cause)
                count[key] += 1
                left[key] = max(left.get(key, (False, 0.0)), (bool(cause.where), cause.residual))
        ranked = sorted(count, key=lambda key: (-count[key], left[key]))
        return tuple(dict.fromkeys(name for name, _ in ranked))

    @property
    def told(self) -> str:
        """The cause that the runner gives: a hypothesis's name, or words of a message."""
        for phrase in (c.removeprefix(SAYS) for c in self.mistake.causes if c.startswith(SAYS)):
            if any(re.search(phrase, text) for text in self.result.messages):
                return phrase.replace(" .* ", " … ")
        return self.named[0] if self.named else NO_CAUSE

    @property
    def named_right(self) -> bool:
        """Whether that is what was planted; for what no hypothesis knows, that none is named."""
        return self.told in [
            c.removeprefix(SAYS).replace(" .* ", " … ") for c in self.mistake.causes
        ]

    def tolerated(self, size: str) -> str:
        """What the fixed tolerance says at this size; with the share of elements it rejects."""
        share = self.result.metrics.get(f"beyond_at_{size}_size")
        if share is None:
            return "error"  # there was no output to compare
        return "passes" if share == 0 else f"caught, {max(share, 0.01):.0%} off"


def run(mistakes: list[Mistake], *, undeclared: bool = False) -> list[MistakeResult]:
    """Through plan and engine, one warm gang a world size; the rows in the table's order."""
    name = "run_undeclared" if undeclared else "run_case"
    found = {}
    with tempfile.TemporaryDirectory() as folder, Pool() as pool:
        options = RunOptions(
            log_dir=Path(folder), executor=f"tests.mistakes.mistake_executor:{name}"
        )
        for seconds in sorted({m.seconds for m in mistakes}):
            cases = [m.case for m in mistakes if m.seconds == seconds]
            plan = make_plan(cases, machine.detect(), time_limit=seconds)
            assert not plan.refused, plan.refused
            for event in scheduler.run(plan, options, pool):
                if isinstance(event, CaseEnded):
                    found[event.result.case_id] = event.result
                    print(f"{len(found)}/{len(mistakes)}", end="\r", file=sys.stderr, flush=True)
    return [MistakeResult(mistake=m, result=found[m.case.id]) for m in mistakes]


def table(rows: list[MistakeResult]) -> str:
    """Markdown: one line a mistake, then the totals."""
    head = ("mistake", "class", "seen in", "ours", "cause named")
    rule = f"{TOLERANCE:g}"
    lines = ["| " + " | ".join((*head, f"{rule}, our inputs", f"{rule}, its own size")) + " |"]
    lines.append("|---" * (len(head) + 2) + "|")
    for row in rows:
        m, mark = row.mistake, "" if row.named_right else f" (expected: {row.mistake.causes[0]})"
        told = (row.tolerated("our"), row.tolerated("its"))
        cells = (m.name, m.kind, m.source, str(row.result.verdict), row.told + mark, *told)
        lines.append("| " + " | ".join(cells) + " |")
    caught = sum(r.caught for r in rows)
    known = [r for r in rows if r.mistake.causes != (NO_CAUSE,)]
    right = sum(r.named_right for r in known)
    none = sum(r.named_right for r in rows) - right
    passes = {size: sum(r.tolerated(size) == "passes" for r in rows) for size in ("our", "its")}
    lines.append("")
    lines.append(
        f"{caught} of {len(rows)} caught. The cause is named right for {right} of the {len(known)} "
        f"that have one in the table of known mistakes; of the other {len(rows) - len(known)}, "
        f"{none} are said to have no known cause. A tolerance of {rule} lets {passes['our']} pass "
        f"on our inputs, and {passes['its']} at its own data's size."
    )
    return "\n".join(lines)


def main() -> int:
    """Run the mistakes that the command line names, and return 1 if one is not caught."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="one mistake (all)")
    parser.add_argument("--undeclared", action="store_true", help="rows state no numerics")
    parser.add_argument("--gpu", action="store_true", help="those that need a GPU, not the others")
    args = parser.parse_args()
    planted = ON_GPU if args.gpu else MISTAKES
    unknown = set(args.names) - {m.name for m in planted}
    if unknown:
        parser.error(f"no such mistake: {', '.join(sorted(unknown))}; docs/evidence.md lists them")
    chosen = [m for m in planted if m.name in args.names or not args.names]
    rows = run(chosen, undeclared=args.undeclared)
    print(table(rows))
    if args.names:
        print("\n".join(text for row in rows for text in row.result.messages))
    return int(not all(row.caught for row in rows))


if __name__ == "__main__":
    sys.exit(main())
