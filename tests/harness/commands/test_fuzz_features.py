"""What is picked by a case's seed: routers and functions that the row of a layer has."""

from __future__ import annotations

import dataclasses

from harness.commands.fuzz_shrink import batch
from harness.commands.fuzz_space import space_for
from harness.plan import machine
from moe.layers import LAYERS

CPU = dataclasses.replace(machine.planned_for("cpu"), planned=False)


def test_a_layer_is_drawn_with_its_own_activation_router_and_options(monkeypatch):
    """Rows as of Llama-4's and gpt-oss's blocks, whose packages need not be here."""
    needs = dataclasses.replace(LAYERS.row("transformers_gpt_oss").needs, packages=(), probe=None)
    oss = dataclasses.replace(LAYERS.row("transformers_gpt_oss"), name="oss", needs=needs)
    needs = dataclasses.replace(LAYERS.row("transformers_llama4").needs, packages=())
    llama = dataclasses.replace(LAYERS.row("transformers_llama4"), name="llama", needs=needs)
    monkeypatch.setattr(LAYERS, "_rows", {**LAYERS.rows, "oss": oss, "llama": llama})
    drawn = batch(dataclasses.replace(space_for(CPU, layer="oss"), batch=20), 0, 0)
    assert {(c.activation, c.router) for c in drawn} == {("swiglu_clamped", "topk_softmax")}
    assert {c.expert_bias for c in drawn} == {True, False}
    drawn = batch(dataclasses.replace(space_for(CPU, layer="llama"), batch=20), 0, 0)
    assert {(c.weights_input, c.renormalize, c.top_k) for c in drawn} == {(True, False, 1)}
    assert {c.router for c in drawn} == {"sigmoid"}
