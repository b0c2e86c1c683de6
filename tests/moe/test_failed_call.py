"""A call that fails on one rank ends on every rank, and the next one is right."""

from harness import parallel_launch
from tests.moe import failing_layers

SIZES = "m:4-n:64-k:64-e:4-topk:2-experts"
TP = f"{SIZES}:torch_loop-tp:2"
EP = f"{SIZES}:torch_loop-dp:2-ep"
ALL, NONE = [0, 1, 2, 3], []
FAILED = {name: f"{name} failed []" for name in ("run", "route", "forward", "quantize_input")}
DTYPE = "x is float64; the layer takes bfloat16: convert x, or build the layer for its dtype []"
WIDTH = (
    "x has shape [4, 63]; the layer takes [T, 64]: flatten the leading dimensions, or build the "
    "layer for another hidden size []"
)
# (case, where rank 1 fails) -> rows that rank 0 has lost, and the error of rank 1. Where experts
# are spread, a rank that fails before the dispatch still computes the other's tokens.
LOST = {
    (TP, "experts"): (ALL, FAILED["run"]),
    (TP, "router"): (ALL, FAILED["route"]),
    (f"{TP}-shared:1", "shared"): (ALL, FAILED["forward"]),
    (TP, "dtype"): (ALL, DTYPE),
    (TP, "width"): (ALL, WIDTH),
    (f"{TP}-chunk:3", "experts"): (ALL, FAILED["run"]),
    (f"{SIZES}:torch_loop-dp:2-ep-moe_tp:2", "experts"): (ALL, FAILED["run"]),
    (f"{SIZES}:torch_loop-tp:2-ep-moe_tp:2", "experts"): (ALL, FAILED["run"]),
    (f"{SIZES}:torch_loop-tp:2-ep-sp", "router"): (NONE, FAILED["route"]),
    (f"{EP}-chunk:3", "experts"): ([0, 1, 2], FAILED["run"]),
    (f"{EP}-chunk:3", "second chunk"): ([3], FAILED["run"]),
    (f"{EP}-chunk:3-a2a:all_to_all", "router"): (NONE, FAILED["route"]),
    (f"{EP}-shared:1", "shared"): (NONE, FAILED["forward"]),
    (f"{EP}-quant:fp8_channel", "quantization"): (NONE, FAILED["quantize_input"]),
    (f"{EP}-latent:32-lora:2", "dtype"): (NONE, DTYPE),
    (f"{EP}-a2a:symm_mem", "width"): (NONE, WIDTH),
    (f"{EP}-eplb:global-redundant:2", "replicas"): (NONE, FAILED["route"]),
    (f"{EP}-shared:1-fused", "router"): (NONE, FAILED["route"]),
    (f"{SIZES}:torch_monolithic-dp:2-ep", "dtype"): (NONE, DTYPE),
}


def test_a_layer_that_fails_on_one_rank_makes_no_other_wait():
    """The other rank gets NaN in what the failed one did not compute, and right rows besides."""
    of_0, of_1 = parallel_launch(2, failing_layers.each_fails_at, tuple(LOST))
    assert dict(zip(LOST, of_0, strict=True)) == {k: (rows, True) for k, (rows, _) in LOST.items()}
    assert dict(zip(LOST, of_1, strict=True)) == {k: (text, True) for k, (_, text) in LOST.items()}
