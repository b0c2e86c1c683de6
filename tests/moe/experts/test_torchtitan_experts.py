"""torchtitan's experts between its dispatcher's halves: absent slots, no rows, order of weights."""

import dataclasses

import pytest
import torch

from moe import released
from moe.types import Activations, Routing
from tests.moe.experts.test_transformers_experts import made, run
from tests.moe.kernels.kernel_cases import expected_output, relative_rms, same
from tests.moe.released_subjects import needs

pytestmark = needs(released.TORCHTITAN_EXPERTS)


@pytest.mark.parametrize("unused", [0.0, 0.5])
def test_slots_without_an_expert_on_this_rank_add_nothing(unused):
    case = made(unused, hidden=72, intermediate=136, num_experts=5, top_k=3)
    got = run("torchtitan", *case)
    assert got.dtype == torch.bfloat16
    assert relative_rms(got, expected_output(*case)) < 0.006
    nobody = (case[-1].topk_ids < 0).all(dim=1)
    assert same(got[nobody], torch.zeros_like(got[nobody]))


def test_a_padding_row_may_hold_anything():
    layer_spec, quant, weights, x, routing = made()
    clean = run("torchtitan", layer_spec, quant, weights, x, routing)
    routing.topk_ids[3] = -1
    x.codes[3] = float("nan")
    dirty = run("torchtitan", layer_spec, quant, weights, x, routing)
    others = torch.arange(layer_spec.m) != 3
    assert same(clean[others], dirty[others])


def test_no_tokens_give_no_sums():
    layer_spec, quant, weights, x, routing = made()
    none = Routing(topk_ids=routing.topk_ids[:0], topk_weights=routing.topk_weights[:0])
    got = run("torchtitan", layer_spec, quant, weights, Activations(codes=x.codes[:0]), none)
    assert got.shape == (0, layer_spec.hidden)
    nobody = dataclasses.replace(routing, topk_ids=torch.full_like(routing.topk_ids, -1))
    got = run("torchtitan", layer_spec, quant, weights, x, nobody)
    assert same(got, torch.zeros_like(x.codes))


def test_gate_and_up_are_not_exchanged():
    layer_spec, quant, weights, x, routing = made()
    gate, up = weights.w13.chunk(2, dim=1)
    exchanged = weights.replace(w13=torch.cat((up, gate), dim=1))
    wanted = expected_output(layer_spec, quant, exchanged, x, routing)
    got = run("torchtitan", layer_spec, quant, exchanged, x, routing)
    assert relative_rms(got, wanted) < 0.006
