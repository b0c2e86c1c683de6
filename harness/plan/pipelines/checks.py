"""Check a Buildkite pipeline for what its JSON schema lets pass, and for the limits of a build."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from harness.plan.pipelines.buildkite import jobs

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_JOBS = 450  # of an upload; Buildkite takes 500, and other steps of the build may add some
MAX_BUILD_JOBS = 4000  # of a build, with its retries
MAX_KEY = 100
_KEY = re.compile(r"[a-zA-Z0-9_\-:.]+\Z")


def problems(pipeline: dict[str, Any], limit: int = MAX_JOBS) -> list[str]:
    """Return what Buildkite would refuse, or understand otherwise; empty if nothing."""
    steps = pipeline["steps"]
    lines = [line for step in steps for line in _of_step(step)]
    lines += _of_keys(steps)
    count = sum(map(jobs, steps))
    if count > limit:
        lines.append(f"{count} jobs are more than an upload may have ({limit}): fewer --shards")
    return lines


def _of_step(step: dict[str, Any]) -> Iterator[str]:
    key = step.get("key", step.get("label", "a step"))
    if "concurrency" in step and "concurrency_group" not in step:
        yield f"{key}: concurrency needs a concurrency_group"
    if "matrix" in step and "parallelism" in step:
        yield f"{key}: matrix and parallelism exclude each other"
    for rule in step.get("soft_fail", []) if isinstance(step.get("soft_fail"), list) else []:
        if isinstance(rule.get("exit_status"), list):
            yield f"{key}: soft_fail takes one exit status a rule"
    for command in step.get("commands", []):
        if re.search(r"(?<!\$)(?:\$\$)*\$(?![$])", command):
            yield f"{key}: a single $ is replaced at upload: write $$ in {command!r}"


def _of_keys(steps: list[dict[str, Any]]) -> Iterator[str]:
    keys = Counter(step["key"] for step in steps if "key" in step)
    for key, count in keys.items():
        if count > 1:
            yield f"{count} steps have the key {key!r}"
        if len(key) > MAX_KEY or not _KEY.match(key):
            yield f"the key {key!r} must have at most {MAX_KEY} letters of a-zA-Z0-9_-:."
    for step in steps:
        for needed in step.get("depends_on", []):
            name = needed["step"] if isinstance(needed, dict) else needed
            if name not in keys:
                yield f"{step.get('key')}: depends_on names {name!r}, which no step has as its key"
