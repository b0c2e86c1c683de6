"""What is wrong with one call on one rank: how much, where, in which pattern, and why.

The result is plain data; `explain.py` makes the message of it. Nothing here changes a verdict.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from harness import causes, heatmap, patterns, routed
from harness.compare import judge
from harness.facts import facts, number
from harness.scene import scene_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from harness.compare import Judgement
    from harness.context import RankContext
    from harness.patterns import Pattern, Wrong
    from harness.scene import Call, Scene
    from harness.subject import Subject

MOST_CAUSES = 3


def diagnose(
    subject: Subject,
    call: Call,
    judgement: Judgement,
    context: RankContext,
    findings: Sequence[Any] = (),
) -> dict[str, Any]:
    """`explain` with a picture, and safe: a fault of the diagnosis is told in it, not raised."""
    try:
        scene = scene_of(subject.case, context.rank, call, subject.reference)
        found = explain(scene, call, judgement, findings)
        folder = context.options.get("pictures")
        if folder and found["rows"]["wrong"]:
            stem = heatmap.stem(subject.case.id, f"rank{context.rank}-call{call.number + 1}")
            found["picture"] = heatmap.save_rows(call, str(folder), stem)
    except Exception as fault:
        return {"call": call.number, "fault": f"{type(fault).__name__}: {fault}"}
    return found


def explain(
    scene: Scene, call: Call, judgement: Judgement, findings: Sequence[Any] = ()
) -> dict[str, Any]:
    """One call's diagnosis, JSON-able; `call` counts from 0.

    rows, columns, elements: how many are wrong. first, worst: elements. actual, expected: value
    ranges and NaN counts. experts: [wrong rows, rows] of each. patterns, causes (best first,
    only those that fit), stages: what departs, in order. messages: those of the judgement that
    all this replaces. findings: StageFinding values.
    """
    output, answer = call.output.out, call.answer
    own = judge(output, answer).messages
    replaced = [text for text in judgement.messages if text.endswith(own)]
    found: dict[str, Any] = {"call": call.number, "tokens": len(output), "messages": replaced}
    found["metrics"] = {name: number(value) for name, value in judgement.metrics.items()}
    found["stages"] = [dataclasses.asdict(finding) for finding in findings]
    wrong = patterns.find_wrong(output, answer)
    found |= facts(output, answer.out, wrong)
    if not own:
        return {**found, "experts": {}, "patterns": [], "causes": []}
    ids = call.output.routing.topk_ids
    found["experts"] = routed.shares(wrong.rows, ids, scene.case.num_experts)
    found["patterns"] = [dataclasses.asdict(p) for p in _patterns(scene, wrong, ids)]
    return found | _causes(scene, call, wrong)


def _patterns(scene: Scene, wrong: Wrong, topk_ids: Tensor) -> list[Pattern]:
    case = scene.case
    whole = case.dp_size == 1 and not case.sequence_parallel
    layout = case.layout
    by_routing = routed.of_routing(
        wrong.rows, topk_ids, layout, scene.rank, case.num_experts, whole=whole
    )
    return [*by_routing, *patterns.of_rows(wrong.rows), *patterns.of_columns(wrong)]


def _causes(scene: Scene, call: Call, wrong: Wrong) -> dict[str, Any]:
    found = causes.search(scene, call, wrong)
    named = [dataclasses.asdict(cause) for cause in found.causes[:MOST_CAUSES]]
    for cause in named:
        cause["residual"] = number(cause["residual"])
    return {
        "causes": named,
        "tried": found.tried,
        "not_applicable": found.not_applicable,
        "untried": found.untried,
        "closest": None if found.closest is None else number(found.closest),
        "faults": list(found.faults),
    }
