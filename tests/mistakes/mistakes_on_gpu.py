"""Mistakes that only a GPU can show: in graphs, and on streams. Elsewhere their cases are refused.

python tests/mistakes/show_mistakes.py --gpu
"""

from __future__ import annotations

import torch

from moe import side_stream
from moe.routers.softmax.member import SoftmaxTopK
from tests.mistakes.mistake import ON_GPU, SAYS, around, mistake

NEVER = "none known"
OLD_ROUTING = f"{SAYS}routing: .* leave out a better expert"
BESIDE = {"table": ON_GPU, "call": "side_stream", "shared_experts": 1}


@mistake("graph replays old routing", NEVER, OLD_ROUTING, table=ON_GPU, call="graph")
def routing_of_the_call_before_the_capture(patch):
    """The router is not part of the graph: each replay reads what it chose before."""
    latest = {}

    def chosen(real, self, *args, **options):
        if not torch.cuda.is_current_stream_capturing():
            latest["routing"] = real(self, *args, **options)
        return latest["routing"]

    around(patch, SoftmaxTopK, "__call__", chosen)


@mistake("stream not waited for", NEVER, SAYS + "rows wrong", **BESIDE)
def shared_experts_added_before_they_are_there(patch):
    """They start late, so that it does not depend on who is faster."""

    def started(function, x, side):
        side.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(side):
            torch.cuda._sleep(200_000_000)  # cycles: some 100 ms
            result = function(x)
        return lambda: result

    patch.setattr(side_stream, "_started", started)
