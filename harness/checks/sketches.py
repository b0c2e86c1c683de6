"""Compress some output rows of a rank, for the comparison across layouts and members."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from harness.checks.output import row_tolerance
from harness.fixtures import counter_hash
from harness.fixtures.hidden_routing import hidden_routing
from harness.fixtures.undefined_rows import defined_rows
from harness.record import cross_case

if TYPE_CHECKING:
    from torch import Tensor

    from harness.fixtures.layer_call import Call
    from harness.fixtures.layer_under_test import Subject

SKETCHED_ROWS = 2  # of each rank's first call


def sketches(subject: Subject, call: Call) -> tuple[dict[str, Any], ...]:
    """Project this rank's first rows on random signs; each sketch carries its slack."""
    rows = defined_rows(call.tokens)[:SKETCHED_ROWS]
    if len(rows) == 0:
        return ()
    values = (call.output.out[rows].float() @ _signs(call.tokens.x).T).tolist()
    slack = _slack(subject, call, rows).tolist()
    triples = zip(call.tokens.index[rows].tolist(), values, slack, strict=True)
    compressed = (cross_case.Sketch(token=t, values=tuple(v), slack=s) for t, v, s in triples)
    return tuple(sketch.to_json() for sketch in compressed)


def _signs(x: Tensor) -> Tensor:
    """Return [WIDTH, K] random signs over sqrt(WIDTH), the same on every rank."""
    numbers = torch.arange(cross_case.WIDTH, device=x.device)
    hashed = counter_hash.bits(0, "sketch", numbers, x.shape[1])
    signs: Tensor = torch.where(hashed < 0, -1.0, 1.0) / cross_case.WIDTH**0.5
    return signs


def _slack(subject: Subject, call: Call, rows: Tensor) -> Tensor:
    """Return how far each row may be from another layout's: tolerance plus quantization error.

    With it counts the rounding of a routing that a layer hides, of which others know nothing.
    """
    routing, expected = call.output.routing, call.answer.out[rows]
    weights = routing.topk_weights[rows]
    if call.routed is None and not subject.rounding.is_plain:
        weights = hidden_routing(subject.case, call.tokens.logits[rows]).topk_weights
    ideal = subject.ideal(
        *(call.tokens.x[rows], routing.topk_ids[rows], weights),
        adapters=call.tokens.adapters_of(rows),
    )
    error = (expected - ideal.out).norm(dim=1)
    slack: Tensor = row_tolerance(call.answer)[rows] + error + expected.norm(dim=1) * 2.0**-20
    return slack
