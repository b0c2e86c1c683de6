"""Choose a few wrong rows of a call, and some correct ones, for comparisons with known mistakes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from harness.checks.alternatives import answer_of_rows
from harness.checks.output import row_tolerance
from harness.diagnosis.fit import MAX_RESIDUAL, TOLERANCE_FACTOR, lengths
from harness.fixtures.layer_call import MAX_ROWS, judged_rows, rows_of
from harness.matrix.exactness import is_bitwise
from harness.mutants import FEW

if TYPE_CHECKING:
    from torch import Tensor

    from harness.fixtures.layer_call import Call
    from harness.mutants.sample import Scene
    from moe.reference.result import Answer

ENOUGH = 2 * FEW  # wrong rows with known parts, so that no other rows are computed again


def sample_rows(scene: Scene, call: Call, is_wrong: Tensor) -> Scene:
    """Return a scene of wrong rows of the call, followed by some correct ones.

    Wrong rows come first, since costly hypotheses use only the first few. Rows whose parts are in
    the call's answer are preferred: the reference computes others again. is_wrong: [T] bool.
    """
    rows, answer = _known(scene, call, is_wrong) or _computed(scene, call, is_wrong)
    return _with_rows(scene, call, rows, answer)


def scene_of_rows(scene: Scene, call: Call, rows: Tensor) -> Scene:
    """Return a scene of these rows [r] of the call; the reference computes their parts again."""
    return _with_rows(scene, call, rows, _answer_of(scene, call, rows))


def _with_rows(scene: Scene, call: Call, rows: Tensor, answer: Answer) -> Scene:
    routing = call.output.routing
    if scene.candidates is not None and scene.candidates.several:
        answer = _with_ball(scene, call, rows, answer)
    return dataclasses.replace(
        scene,
        rows=rows,
        x=call.tokens.x[rows],
        logits=call.tokens.logits[rows],
        topk_ids=routing.topk_ids[rows],
        topk_weights=routing.topk_weights[rows],
        adapters=call.tokens.adapters_of(rows),
        actual=call.output.out[rows],
        answer=answer,
        memo={},
    )


def clear_first(scene: Scene, is_wrong: Tensor) -> tuple[Scene, Tensor]:
    """Return the scene and is_wrong [r] with the first clear one of the wrong rows in front.

    A row is clear if each prediction within its tolerance leaves so little of its error that it can
    be named: the error of others may be as small as a tolerance of what is to be explained. Without
    a clear row, the clearest one.
    """
    unit = scene.answer.out.float().square().mean(dim=1, keepdim=True).sqrt()
    error = lengths(scene.actual.float(), scene.answer.out.float(), unit)
    clearness = torch.where(is_wrong, error / row_tolerance(scene.answer).clamp(min=1e-38), -1.0)
    is_clear = clearness >= TOLERANCE_FACTOR / MAX_RESIDUAL
    first = int(torch.where(is_clear, torch.inf, clearness).argmax())
    order = torch.arange(len(clearness), device=clearness.device)
    order = torch.cat([order[first : first + 1], order[:first], order[first + 1 :]])
    return scene.reordered(order), is_wrong[order]


def _with_ball(scene: Scene, call: Call, rows: Tensor, answer: Answer) -> Answer:
    """Return the answer with the error of all roundings that the layer may have."""
    assert scene.candidates is not None
    reference = scene.reference.with_numerics(scene.candidates.ball)
    wide = answer_of_rows(reference, call, rows)
    return dataclasses.replace(answer, variance=wide.variance, flips=wide.flips)


def _known(scene: Scene, call: Call, is_wrong: Tensor) -> tuple[Tensor, Answer] | None:
    """Return rows that have parts, and their answer; None if too few of them are wrong."""
    known = judged_rows(call.tokens)
    is_known_wrong = is_wrong[known]
    needed = min(ENOUGH, int(is_wrong.sum()))
    # The answer of a case that is compared bit by bit allows no error, but a prediction has some.
    if int(is_known_wrong.sum()) < needed or is_bitwise(scene.case):
        return None
    at = _wrong_first(is_known_wrong)
    return known[at], rows_of(call.answer, known[at], at)


def _computed(scene: Scene, call: Call, is_wrong: Tensor) -> tuple[Tensor, Answer]:
    """Return any rows, and their answer, which the reference computes again."""
    rows = _wrong_first(is_wrong)
    return rows, _answer_of(scene, call, rows)


def _answer_of(scene: Scene, call: Call, rows: Tensor) -> Answer:
    """Return the answer for some rows [r] of the call, with their parts and the call's scales."""
    routing = call.output.routing
    answer = scene.reference(
        call.tokens.x[rows],
        routing.topk_ids[rows],
        routing.topk_weights[rows],
        keep=torch.arange(len(rows), device=rows.device),
        like=call.answer,
        adapters=call.tokens.adapters_of(rows),
    )
    return dataclasses.replace(answer, amax1=call.answer.amax1, amax2=call.answer.amax2)


def _wrong_first(is_wrong: Tensor) -> Tensor:
    """Return at most MAX_ROWS indices into is_wrong, a quarter of them of correct rows if any."""
    correct_rows = spread((~is_wrong).nonzero().flatten(), MAX_ROWS // 4)
    wrong_rows = spread(is_wrong.nonzero().flatten(), MAX_ROWS - len(correct_rows))
    return torch.cat([wrong_rows, correct_rows])


def spread(numbers: Tensor, limit: int) -> Tensor:
    """Return at most `limit` of the numbers [n], evenly spread, with both ends."""
    count = min(len(numbers), limit)
    place = torch.linspace(0, max(len(numbers) - 1, 0), count, device=numbers.device)
    return numbers[place.round().to(torch.int64)]
