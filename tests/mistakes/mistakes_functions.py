"""Mistakes in the activation or the router of layers that ask for another than the default."""

from __future__ import annotations

import torch

from moe.activations.gelu_tanh.member import GeluTanhMul
from moe.experts import triton_steps
from moe.routers.sigmoid.member import SigmoidTopK
from moe.routers.softmax.member import SoftmaxTopK
from tests.mistakes.mistake import around, mistake
from tests.mistakes.mistakes_experts import activated
from tests.mistakes.mistakes_routing import chosen


@mistake("activation not the asked one", "vLLM #49747", "silu", activation="gelu_tanh")
def silu_instead_of_gelu(patch):
    activated(patch, torch.nn.functional.silu, GeluTanhMul)


@mistake(
    "erf form for tanh form",
    "mistral.rs #1867",
    "gelu",
    activation="gelu_tanh",
    experts="torch_loop",
    dtype="f32",
)
def gelu_by_erf_instead_of_tanh(patch):
    activated(patch, torch.nn.functional.gelu, GeluTanhMul)


@mistake(
    "activation left out of a call",
    "FI #2882",
    "silu",
    activation="gelu_tanh",
    experts="triton",
    m=4,
)
def kernel_not_told_of_the_activation(patch):
    around(patch, triton_steps, "activate", lambda real, h, ids, **kw: real(h, ids))


@mistake("up ignored by another activation", "FI #2882", "silu_without_up", activation="gelu_tanh")
def up_ignored_after_gelu(patch):
    def gate_alone(real, self, gate, up):
        return real(self, gate, torch.ones_like(up))

    around(patch, GeluTanhMul, "__call__", gate_alone)


@mistake(
    "scoring not the asked one",
    "mlx-lm #1354",
    "weights_softmax",
    "says:routing: .* wrong weights",
    router="sigmoid",
)
def softmax_instead_of_sigmoid(patch):
    softmax = SoftmaxTopK()
    chosen(patch, lambda real, *args, **kw: softmax(*args, **kw), SigmoidTopK)


@mistake(
    "sigmoid not renormalised",
    "vLLM #37605",
    "renormalisation_missing",
    "says:routing: .* wrong weights",
    router="sigmoid",
)
def sigmoid_not_renormalised(patch):
    plain = {"renormalize": False}
    chosen(patch, lambda real, logits, k, **kw: real(logits, k, **plain), SigmoidTopK)


@mistake(
    "sigmoid renormalised",
    "FI #3946",
    "renormalisation_extra",
    "says:routing: .* wrong weights",
    router="sigmoid",
    renormalize=False,
)
def sigmoid_renormalised_though_not_asked(patch):
    summed = {"renormalize": True}
    chosen(patch, lambda real, logits, k, **kw: real(logits, k, **summed), SigmoidTopK)
