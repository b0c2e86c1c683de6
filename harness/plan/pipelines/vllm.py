"""Write steps in the words of vLLM's pipeline generator, which makes queues and twins of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.plan.pipelines.buildkite import RETRY
from harness.plan.pipelines.targets import FILES

if TYPE_CHECKING:
    from harness.plan.pipelines.targets import Request, Target

GROUP = "Fused MoE"


def test_area(request: Request) -> dict[str, Any]:
    """Return a file of test areas: ROCm targets are twins of the first one of as many CUDA GPUs."""
    owners = [target for target in request.targets if target.family != "rocm"]
    twins = [target for target in request.targets if target.family == "rocm"]
    steps = []
    for target in owners:
        step = _step(request, target)
        same = [twin for twin in twins if twin.count == target.count and target.count]
        if same:
            twins.remove(same[0])
            step["mirror"] = {"amd": _twin(request, same[0])}
        steps.append(step)
    return {"group": GROUP, "steps": [*steps, *(_step(request, twin) for twin in twins)]}


test_area.__test__ = False  # type: ignore[attr-defined]  # no test, whatever its name begins with


def _step(request: Request, target: Target) -> dict[str, Any]:
    step: dict[str, Any] = {
        "label": f"Fused MoE layers, suite {request.suite} ({target.title})",
        "key": request.name(target),
        "device": _device(target),
    }
    if target.count:
        step["num_devices"] = target.count
    if target.chip in request.optional:
        step["optional"] = True
    if target.chip in request.soft:
        step["soft_fail"] = True
    if request.shards > 1:
        step["parallelism"] = request.shards
    return {
        **step,
        "timeout_in_minutes": request.minutes,
        "source_file_dependencies": list(FILES),
        "commands": _commands(request, target),
        "retry": RETRY,
    }


def _twin(request: Request, target: Target) -> dict[str, Any]:
    return {
        "label": f"Fused MoE layers, suite {request.suite} ({target.title})",
        "device": _device(target),
        "num_devices": target.count,
        "timeout_in_minutes": request.minutes + 5,
        "commands": _commands(request, target),
    }


def _device(target: Target) -> str:
    """Return the generator's word: its AMD devices name their number."""
    return f"{target.chip}_{target.count}" if target.family == "rocm" else target.chip


def _commands(request: Request, target: Target) -> list[str]:
    several = request.shards > 1
    folder = f"runs/{request.name(target)}" + ("-$$BUILDKITE_PARALLEL_JOB" if several else "")
    run = request.run(target, folder, "auto" if several else None)
    return [request.set_up(target), run]
