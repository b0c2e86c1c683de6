"""A call that fails on one rank ends on every rank, and the next one is right."""

import pytest

from harness import parallel_launch
from moe.failed_call import EndedError, Postponed
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


FP8 = "quant:fp8_channel-dp:2-ep"  # codes and scales travel, each in an exchange of its own
SOME = [0, 2, 3]  # tokens of rank 0 that need an expert of rank 1
# Case -> rows that rank 0 has lost when the work of rank 1 fails before, between and after the
# exchanges of a call. After the last one nothing is lost.
LOST_BETWEEN = {
    f"{SIZES}:torch_loop-{FP8}": [ALL] * 5,
    f"{SIZES}:torch_loop-a2a:naive-{FP8}": [ALL] * 5,
    f"{SIZES}:torch_loop-a2a:all_to_all-{FP8}": [SOME] * 4 + [NONE],
    f"{SIZES}:triton_batched-a2a:all_to_all_batched-{FP8}": [SOME] * 7 + [NONE],
    f"{SIZES}:torch_loop-a2a:symm_mem-{FP8}": [SOME] * 3 + [NONE],
    f"{EP}-a2a:tests.moe.failing_layers:GathersAndSums": [ALL] * 4,
    f"{EP}-a2a:all_to_all-chunk:3": [[0, 2]] * 3 + [NONE] + [[3]] * 3 + [NONE],
}


@pytest.fixture(scope="module")
def ranks():
    """Return what the two ranks of one gang tell of all calls that fail."""
    return parallel_launch(2, failing_layers.all_fail, tuple(LOST), tuple(LOST_BETWEEN), timeout=60)


def test_a_layer_that_fails_on_one_rank_makes_no_other_wait(ranks):
    """The other rank gets NaN in what the failed one did not compute, and right rows besides."""
    of_0, of_1 = (cases for cases, _ in ranks)
    assert dict(zip(LOST, of_0, strict=True)) == {k: (rows, True) for k, (rows, _) in LOST.items()}
    assert dict(zip(LOST, of_1, strict=True)) == {k: (text, True) for k, (_, text) in LOST.items()}


def test_work_that_fails_between_the_exchanges_of_a_call_makes_no_other_rank_wait(ranks):
    of_0, of_1 = (points for _, points in ranks)
    expected = [[(rows, True) for rows in of_case] for of_case in LOST_BETWEEN.values()]
    assert of_0 == expected
    assert of_1 == [
        [(f"point {i} failed []", True) for i in range(len(of_case))] for of_case in expected
    ]


def test_after_an_error_nothing_is_made_and_the_error_is_raised_at_the_end():
    own = Postponed()
    assert own.made(lambda: 1, lambda: 2) == 1
    own.end()
    assert own.made(lambda: 1 // 0, lambda: 2) == 2
    assert own.made(lambda: 1, lambda: 2) == 2
    with pytest.raises(EndedError) as raised:
        own.end()
    assert isinstance(raised.value.error, ZeroDivisionError)


def test_an_error_that_the_others_cannot_be_told_is_raised_at_once():
    with pytest.raises(ZeroDivisionError) as raised:
        Postponed().made(lambda: 1 // 0, lambda: [][0])
    assert raised.value.__notes__ == [
        "the other ranks were not told, since that failed, too: list index out of range"
    ]
