"""Run planted mistakes through the real runner and print what it says of each.

    python tests/blind/run_mistakes.py reach --record lines.json [--suite smoke]
    python tests/blind/run_mistakes.py run --record lines.json --out results.jsonl [NAME ...]
    python tests/blind/run_mistakes.py show --out results.jsonl

`reach` runs a suite once without a mistake and records the lines of moe/ that each case executes.
`run` plants one mistake at a time in a copy of the repository, and runs those cases that execute a
line that it changes: at most `--most`, drawn so that members and features, rare ones first, are
among them. `show` prints what came of it. `--mistakes` names the file, one of ROUNDS.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from harness.record.events import CaseEnded
from harness.record.result import CaseResult, Verdict
from harness.record.run_folder import RunFolder

ROOT, HERE = Path(__file__).parents[2], Path(__file__).parent
CAUGHT = frozenset({Verdict.FAILED, Verdict.ERROR, Verdict.CRASHED, Verdict.HUNG})
# Each was written before any of its mistakes ran.
ROUNDS = ("mistakes.yaml", *(f"round_{n}.yaml" for n in range(2, 9)))
_COPIED = ("moe", "harness", "configs")


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A mistake of a file of ROUNDS, which says what each field means."""

    name: str
    file: str
    stage: str
    old: str
    new: str
    seen: str
    cause: str

    def planted_in(self, text: str) -> str:
        """Return the file's text with the mistake. Raises ValueError unless `old` is in it once."""
        if text.count(self.old) != 1:
            count = text.count(self.old)
            raise ValueError(
                f"mistake {self.name}: `old` must be in {self.file} once, not {count}x"
            )
        return text.replace(self.old, self.new)


def mistakes(path: Path = HERE / "mistakes.yaml") -> list[Mistake]:
    """Return the mistakes of a file, in its order."""
    return [Mistake(**fields) for fields in yaml.safe_load(path.read_text(encoding="utf-8"))]


def changed_lines(before: str, after: str) -> set[int]:
    """Return the numbers, from 1, of the lines that an edit replaces, removes or inserts before."""
    matcher = difflib.SequenceMatcher(None, before.splitlines(), after.splitlines(), autojunk=False)
    lines: set[int] = set()
    for tag, start, stop, _, _ in matcher.get_opcodes():
        if tag != "equal":
            lines |= set(range(start + 1, max(stop, start + 1) + 1))
    return lines


def reaching(mistake: Mistake, record: dict[str, list[list[Any]]]) -> list[str]:
    """Return the ids of the cases that execute a line which the mistake changes.

    record: case id -> pairs of a file below moe/ and a line.
    """
    before = (ROOT / mistake.file).read_text(encoding="utf-8")
    lines = changed_lines(before, mistake.planted_in(before))
    file = mistake.file.removeprefix("moe/")
    return [c for c, seen in record.items() if any(f == file and n in lines for f, n in seen)]


def drawn(ids: list[str], most: int) -> list[str]:
    """Return at most this many ids: for each token, rare ones first, one that has it."""
    tokens = {case_id: set(case_id.split("-")) for case_id in ids}
    counts = Counter(token for of_case in tokens.values() for token in of_case)
    chosen: dict[str, None] = {}
    for token, _ in sorted(counts.items(), key=lambda pair: (pair[1], pair[0])):
        having = [case_id for case_id in ids if token in tokens[case_id]]
        if not any(case_id in chosen for case_id in having):
            chosen[having[0]] = None
    chosen |= dict.fromkeys(ids)
    return list(chosen)[:most]


def copied(folder: Path) -> None:
    """Copy what `python -m harness` needs into a folder."""
    for name in _COPIED:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)


def harness(folder: Path, *options: str) -> list[CaseResult]:
    """Run `python -m harness run` in a copy and return its results; raise if there are none."""
    command = [sys.executable, "-m", "harness", "run", "--out", "run", *options]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(folder)}
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if not (folder / "run" / "events.jsonl").exists():
        raise RuntimeError(f"the run left no events:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    events = RunFolder.open(folder / "run").events()
    return [event.result for event in events if isinstance(event, CaseEnded)]


def reach(args: argparse.Namespace) -> None:
    """Add case id -> executed lines of moe/, over all ranks, to the record."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copied(folder)
        shutil.copy(HERE / "line_recorder.py", folder)
        (folder / "lines").mkdir()
        with (folder / "harness" / "execute.py").open("a", encoding="utf-8") as file:
            file.write(
                "\nfrom pathlib import Path\n\nfrom line_recorder import recording\n\n"
                f"run_case = recording(run_case, Path({str(folder / 'lines')!r}))\n"
            )
        results = harness(folder, *_selection(args))
        record: dict[str, set[tuple[str, int]]] = {}
        for file_of_rank in (folder / "lines").iterdir():
            for line in file_of_rank.read_text(encoding="utf-8").splitlines():
                data = json.loads(line)
                record.setdefault(data["case"], set()).update(map(tuple, data["lines"]))
    known = json.loads(args.record.read_text()) if args.record.exists() else {}
    known |= {case: sorted(lines) for case, lines in record.items()}
    args.record.write_text(json.dumps(known), encoding="utf-8")
    print(f"{len(record)} of {len(results)} cases recorded: {_counts(results)}")
    for result in (result for result in results if result.verdict is not Verdict.PASSED):
        print(result.case_id, result.verdict, *result.messages, sep="\n  ")


def _selection(args: argparse.Namespace) -> list[str]:
    if args.cases is None:
        return ["--suite", args.suite]
    return ["--plain-call", "--time-limit", "60", "--case", *args.cases.read_text().split()]


def _counts(results: list[CaseResult]) -> str:
    counts = Counter(str(result.verdict) for result in results)
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def run(args: argparse.Namespace) -> None:
    """Append a line of JSON for each mistake: what the cases that reach it say."""
    record = json.loads(args.record.read_text())
    chosen = [m for m in mistakes(args.mistakes) if m.name in args.names or not args.names]
    for mistake in chosen:
        reached = reaching(mistake, record)
        wanted = set(reached if args.cases is None else args.cases.read_text().split())
        ids = drawn([case_id for case_id in reached if case_id in wanted], args.most)
        results = planted_run(mistake, ids) if ids else []
        data = {"name": mistake.name, "reached": len(reached), "ran": len(ids)}
        data["results"] = [result.to_json() for result in results]
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(data) + "\n")
        print(f"{mistake.name}: {len(reached)} reach it, {_counts(results)}", flush=True)


def planted_run(mistake: Mistake, ids: list[str]) -> list[CaseResult]:
    """Return the results of these cases with the mistake in a copy of the repository."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copied(folder)
        path = folder / mistake.file
        path.write_text(mistake.planted_in(path.read_text(encoding="utf-8")), encoding="utf-8")
        options = ["--plain-call", "--time-limit", "60", "--case", *ids]
        return harness(folder, *options)


def show(args: argparse.Namespace) -> None:
    """Print, for each mistake, verdicts, the first wrong stages and the causes that were named."""
    by_name = {m.name: m for m in mistakes(args.mistakes)}
    for line in args.out.read_text(encoding="utf-8").splitlines():
        data = json.loads(line)
        results = [CaseResult.from_json(result) for result in data["results"]]
        caught = [result for result in results if result.verdict in CAUGHT]
        stage = by_name[data["name"]].stage
        print(
            f"{data['name']}: expected in {stage}; caught by {len(caught)} of {data['ran']} cases"
        )
        print(f"  {data['reached']} reach it; {_counts(results)}")
        for noun, values in (("stage", map(first_stage, caught)), ("cause", map(causes, caught))):
            for text, count in Counter(values).most_common(args.lines):
                print(f"  {noun} {count}x: {text}")


def first_stage(result: CaseResult) -> str:
    """Return the first wrong stage that a result's first message about stages names."""
    stages = [s.stage for d in result.diagnoses for c in d.calls for s in c.stages[:1]]
    if stages:
        return Counter(stages).most_common(1)[0][0]
    texts = [text.partition(": ")[2] for text in result.messages]
    return texts[0][:160] if texts else str(result.reason)


def causes(result: CaseResult) -> str:
    """Return the names of the causes of a result, the one of most calls first."""
    names = [c.name for d in result.diagnoses for call in d.calls for c in call.causes[:1]]
    return ", ".join(name for name, _ in Counter(names).most_common()) or "none"


def parsed(argv: list[str]) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    parts = {name: commands.add_parser(name) for name in ("reach", "run", "show")}
    for part in parts.values():
        part.add_argument("--mistakes", type=Path, default=HERE / "mistakes.yaml")
    for name in ("reach", "run"):
        parts[name].add_argument("--record", type=Path, required=True, help="lines of each case")
        parts[name].add_argument("--cases", type=Path, help="a file of ids: these cases only")
    for name in ("run", "show"):
        parts[name].add_argument("--out", type=Path, required=True, help="results, a line each")
    parts["reach"].add_argument("--suite", default="smoke")
    parts["run"].add_argument("--most", type=int, default=40, help="cases of a mistake (40)")
    parts["run"].add_argument("names", nargs="*", help="mistakes (all)")
    parts["show"].add_argument("--lines", type=int, default=4, help="stages and causes shown (4)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    arguments = parsed(sys.argv[1:])
    {"reach": reach, "run": run, "show": show}[arguments.command](arguments)
