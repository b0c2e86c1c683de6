"""Make the right output of a case wrong by counting some of its terms more or less often."""

from __future__ import annotations

from functools import cache

import torch

from harness.diagnosis.evidence import Evidence
from harness.diagnosis.patterns import find_mismatch
from tests.harness.diagnosis.mistaken import CASE, call_of, scene, with_output

SMALL = CASE.replace(m=32, n=64, k=256, top_k=4)
SPREAD = SMALL.replace(dp_size=2, use_ep=True)
SPLIT = SMALL.replace(tp_size=4)


@cache
def shares_of(case=SMALL, rank=0):
    """The call, and what each rank adds for each slot of all rows, [W, T, k, K], weighted."""
    call, reference = call_of(case, rank)
    routing = call.output.routing
    rows = torch.arange(len(call.tokens.x))
    answer = reference(call.tokens.x, routing.topk_ids, routing.topk_weights, keep=rows)
    return call, answer.parts * routing.topk_weights[None, :, :, None]


def evidence_of(out, case=SMALL, rank=0):
    """What is known of the call, had the layer returned this."""
    call = with_output(call_of(case, rank)[0], out)
    mismatch = find_mismatch(call.output.out, call.answer)
    return Evidence(scene(call, case, rank), call, mismatch)
