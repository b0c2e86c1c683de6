"""Write the matrix of a GitHub Actions job: one entry for each shard of each target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.plan.pipelines.targets import Request

MAX_JOBS = 256  # of a matrix


def matrix(request: Request) -> dict[str, Any]:
    """Return `{"include": [...]}` for `strategy.matrix`. Raises UsageError for too many jobs."""
    entries = []
    for target in request.targets:
        for number in range(1, request.shards + 1):
            shard = f"{number}/{request.shards}" if request.shards > 1 else None
            folder = f"runs/{request.name(target)}/{number}"
            entries.append(
                {
                    "name": f"{request.name(target)}{f' {shard}' if shard else ''}",
                    "runs_on": request.queue(target),
                    "setup": request.set_up(target),
                    "run": request.run(target, folder, shard),
                    "folder": folder,
                    "target": request.name(target),
                    "timeout_minutes": request.minutes,
                    "continue_on_error": target.chip in request.soft,
                }
            )
    if len(entries) > MAX_JOBS:
        raise UsageError(
            f"{len(entries)} jobs are more than a matrix may have ({MAX_JOBS}): fewer --shards"
        )
    return {"include": entries}
