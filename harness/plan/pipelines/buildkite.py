"""Write a Buildkite pipeline: per target its shards, and a step that joins and annotates them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.errors import ExitCode
from harness.plan.pipelines.targets import Target

if TYPE_CHECKING:
    from harness.plan.pipelines.targets import Request

Step = dict[str, Any]
# Only what the code under test did not cause is tried again.
RETRY: Step = {
    "automatic": [
        {"exit_status": int(ExitCode.INFRASTRUCTURE), "limit": 1},
        {"exit_status": -1, "limit": 2},  # the agent was lost
        {"exit_status": 255, "limit": 2},  # the agent was stopped
    ]
}
SOFT = [{"exit_status": int(ExitCode.FAILED)}]  # a failed case, but no usage error
JOIN_MINUTES = 10
ARTIFACTS = "runs/{name}/**/*"


def pipeline(request: Request) -> dict[str, Any]:
    """Return the pipeline. `$$` becomes `$` when the agent uploads it."""
    return {"steps": [step for target in request.targets for step in steps_of(request, target)]}


def steps_of(request: Request, target: Target) -> list[Step]:
    """Return the steps of a target: a block if it is optional, its shards, and the joining step."""
    return [*_block(request, target), _shards(request, target), _join(request, target)]


def _block(request: Request, target: Target) -> list[Step]:
    """Return the step that waits for somebody, and holds up nothing else."""
    if target.chip not in request.optional:
        return []
    return [
        {
            "block": f"Run suite {request.suite} on {target.title}",
            "key": f"block-{request.name(target)}",
            "depends_on": [],
            "blocked_state": "passed",
        }
    ]


def _shards(request: Request, target: Target) -> Step:
    name = request.name(target)
    several = request.shards > 1
    number = "$$BUILDKITE_PARALLEL_JOB" if several else "0"
    run = request.run(target, f"runs/{name}/{number}", "auto" if several else None)
    step: Step = {
        "label": f"MoE layers, suite {request.suite}, {target.title}"
        + (" %N/%t" if several else ""),
        "key": name,
        "commands": [request.set_up(target), run],
        "agents": {"queue": request.queue(target)},
        "timeout_in_minutes": request.minutes,
        "artifact_paths": [ARTIFACTS.format(name=name)],
        "retry": RETRY,
        "depends_on": [step["key"] for step in _block(request, target)],
    }
    if several:
        step["parallelism"] = request.shards
    return _softened(request, target, step)


def _join(request: Request, target: Target) -> Step:
    """Return the step that merges the shards, whatever their end, and annotates the build."""
    name, cpu = request.name(target), Target(chip="cpu", count=0)
    step: Step = {
        "label": f"Report, suite {request.suite}, {target.title}",
        "key": f"{name}-report",
        "depends_on": [{"step": name, "allow_failure": True}],
        "commands": [
            "make setup",
            f"{cpu.python} -m harness collect runs/{name} --context {name}",
        ],
        "agents": {"queue": request.queue(cpu)},
        "timeout_in_minutes": JOIN_MINUTES,
        "artifact_paths": [f"runs/{name}/junit*.xml", f"runs/{name}/report.md"],
        "retry": RETRY,
    }
    return _softened(request, target, step)


def _softened(request: Request, target: Target, step: Step) -> Step:
    """Return a step whose failed cases do not fail the build, if its chip is on trial."""
    return {**step, "soft_fail": SOFT} if target.chip in request.soft else step


def jobs(step: Step) -> int:
    """Return how many jobs a step becomes; a block is none."""
    return 0 if "block" in step else int(step.get("parallelism", 1))


def uploads(pipeline: dict[str, Any], limit: int) -> list[dict[str, Any]]:
    """Return the pipeline in parts of at most `limit` jobs, cut only between targets.

    A report's key ends its target. A target with more jobs than that is a part of its own, which
    `harness.plan.pipelines.checks` refuses.
    """
    parts: list[list[Step]] = [[]]
    group: list[Step] = []
    for step in pipeline["steps"]:
        group.append(step)
        if not step["key"].endswith("-report"):
            continue
        if parts[-1] and sum(map(jobs, [*parts[-1], *group])) > limit:
            parts.append([])
        parts[-1] += group
        group = []
    return [{"steps": part} for part in parts]
