"""Record which lines of moe/ a case executes on a rank; copied beside `harness` by `run_mistakes`.

Interpreted Triton kernels count: the interpreter compiles them with their file and line numbers.
Weights that a gang keeps from case to case are made again in each case, so that what makes them is
executed by every case that uses them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coverage import Coverage

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent / "moe"


def recording(run_case: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """Return `run_case` that also appends a line of JSON to a file of its process in `folder`."""

    def run(case: Any, context: Any) -> Any:
        for key in [key for key, entry in context.caches.items() if not entry.pinned]:
            del context.caches[key]
        coverage = Coverage(data_file=None, config_file=False, include=[f"{ROOT}/*"])
        coverage.start()
        try:
            return run_case(case, context)
        finally:
            coverage.stop()
            line = json.dumps({"case": case.id, "lines": executed(coverage)})
            with (folder / f"{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    return run


def executed(coverage: Coverage) -> list[tuple[str, int]]:
    """Return the executed lines, each with its file below moe/."""
    data = coverage.get_data()
    return [
        (Path(file).relative_to(ROOT).as_posix(), line)
        for file in data.measured_files()
        for line in data.lines(file) or ()
    ]
