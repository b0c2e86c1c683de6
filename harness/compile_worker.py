"""Compile every Triton kernel that cases can launch, for chips that are not here.

`harness compile` runs this module in a process of its own, as it needs torch and compiled kernels:
chips and case ids as JSON on stdin, one JSON line for each event on stdout:

    {"recorded": {chip: count}, "seconds": s}    requests, each different binary once
    {"chip": ..., "kernel": ..., "shared_bytes": ..., "cached": ..., ...}    a compiled kernel
    {"failed": text}    a case whose launches cannot be recorded

Results are kept in a file under `--cache`, by a hash of all that a binary depends on. What cases
launch is kept by a hash of the sources: with nothing changed, neither torch nor Triton is imported.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from harness.fixtures.launch_pool import Recorded
    from moe.kernels.aot_compile import Request

    Ids = Mapping[str, list[str]]  # chip, as `sm90` -> ids of cases

_ROOT = Path(__file__).resolve().parents[1]
_SOURCES = ("moe", "harness/fixtures", "harness/matrix")  # decide what a case launches


def main(cache: Path, workers: int) -> None:
    """Read chips and cases from stdin, and print the events."""
    ids: Ids = json.load(sys.stdin)
    for event in events(ids, cache, workers):
        print(json.dumps(event), flush=True)


def events(ids: Ids, cache: Path, workers: int) -> Iterator[dict[str, Any]]:
    """Yield the events of the module's docstring."""
    cache.mkdir(parents=True, exist_ok=True)
    results = Results(cache / "results.jsonl")
    recorded = cache / f"recorded-{recording_key(ids)}.json"
    keys: dict[str, list[str]] = json.loads(recorded.read_text()) if recorded.exists() else {}
    known = all(key in results.by_key for of_chip in keys.values() for key in of_chip)
    requests: dict[str, Request] = {}
    start = time.monotonic()
    if not keys or not known:
        os.environ.pop("TRITON_INTERPRET", None)
        done = _record(ids, workers)
        yield from ({"failed": text} for text in done.failures)
        keys = {chip: list(of_chip) for chip, of_chip in done.requests.items()}
        requests = {key: r for of_chip in done.requests.values() for key, r in of_chip.items()}
        if not done.failures:
            _write(recorded, keys)
    counts = {chip: len(of_chip) for chip, of_chip in keys.items()}
    yield {"recorded": counts, "seconds": round(time.monotonic() - start, 1)}
    yield from _results(keys, requests, results, workers)


def _results(
    keys: Mapping[str, Iterable[str]],
    requests: Mapping[str, Request],
    results: Results,
    workers: int,
) -> Iterator[dict[str, Any]]:
    """Yield a result for each key: those of earlier runs, then each new one as it comes."""
    all_keys = dict.fromkeys(key for of_chip in keys.values() for key in of_chip)
    missing = [requests[key] for key in all_keys if key not in results.by_key]
    yield from ({**results.by_key[k], "cached": True} for k in all_keys if k in results.by_key)
    if not missing:
        return
    from moe.kernels.aot_pool import compile_all

    with tempfile.TemporaryDirectory(prefix="compile-matrix-") as folder:
        os.environ["TRITON_CACHE_DIR"] = folder  # binaries are not kept, their sizes are
        for compiled in compile_all(missing, workers):
            result = asdict(compiled)
            results.add(result)
            yield {**result, "cached": False}


def _record(ids: Ids, workers: int) -> Recorded:
    """Return what the cases launch."""
    from harness.fixtures.launch_pool import record

    return record(ids, workers)


class Results:
    """Keep compiled kernels' results in a file, one JSON line each. A refusal is not kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.by_key: dict[str, dict[str, Any]] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                result = json.loads(line)
            except ValueError:  # a run was killed while it wrote
                continue
            self.by_key[result["key"]] = result

    def add(self, result: dict[str, Any]) -> None:
        """Keep a result if its kernel compiled."""
        if result["refusal"] is None:
            self.by_key[result["key"]] = result
            with self._path.open("a") as file:
                file.write(json.dumps(result) + "\n")


def recording_key(ids: Ids) -> str:
    """Return a hash of the cases, of the sources that decide what they launch, and of versions."""
    total = hashlib.sha256(json.dumps(ids).encode())
    for folder in _SOURCES:
        for path in sorted((_ROOT / folder).rglob("*.py")):
            total.update(str(path.relative_to(_ROOT)).encode() + path.read_bytes())
    for package in ("torch", "triton"):
        total.update(_version(package).encode())
    return total.hexdigest()[:32]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _write(path: Path, value: Any) -> None:
    """Write JSON; a run that is killed leaves the old file or none."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value))
    part.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
