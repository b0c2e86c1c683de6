"""Some output rows of a rank, compressed, for the comparison across layouts and members."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from harness.checks.output import bound
from harness.fixtures import tensors
from harness.record import cross_case

if TYPE_CHECKING:
    from torch import Tensor

    from harness.fixtures.layer_call import Call
    from harness.fixtures.layer_under_test import Subject

SKETCHED_ROWS = 2  # of each rank's first call


def sketches(subject: Subject, call: Call) -> tuple[dict[str, Any], ...]:
    """Compress this rank's first rows by random signs, with what may explain a difference."""
    if len(call.tokens.x) == 0:
        return ()
    rows = slice(0, SKETCHED_ROWS)
    values = (call.output.out[rows].float() @ _signs(call.tokens.x).T).tolist()
    slack = _slack(subject, call, rows).tolist()
    triples = zip(call.tokens.index[rows].tolist(), values, slack, strict=True)
    made = (cross_case.Sketch(token=t, values=tuple(v), slack=s) for t, v, s in triples)
    return tuple(sketch.to_json() for sketch in made)


def _signs(x: Tensor) -> Tensor:
    """[WIDTH, K] of random sign, the same on every rank."""
    numbers = torch.arange(cross_case.WIDTH, device=x.device)
    hashed = tensors.bits(0, "sketch", numbers, x.shape[1])
    signs: Tensor = torch.where(hashed < 0, -1.0, 1.0) / cross_case.WIDTH**0.5
    return signs


def _slack(subject: Subject, call: Call, rows: slice) -> Tensor:
    """How far each row may be from that of another layout: its bound and the scheme's error."""
    routing, right = call.output.routing, call.answer.out[rows]
    ideal = subject.ideal(call.tokens.x[rows], routing.topk_ids[rows], routing.topk_weights[rows])
    error = (right - ideal.out).norm(dim=1)
    slack: Tensor = bound(call.answer)[rows] + error + right.norm(dim=1) * 2.0**-20
    return slack
