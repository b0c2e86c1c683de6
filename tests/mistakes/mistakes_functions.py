"""Mistakes in the activation of layers that ask for another one than the default."""

from __future__ import annotations

import torch

from moe.activations.gelu_tanh.member import GeluTanhMul
from moe.experts import triton as triton_experts
from tests.mistakes.mistake import around, mistake
from tests.mistakes.mistakes_experts import activated


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
    around(patch, triton_experts, "silu_mul", lambda real, h, ids, **kw: real(h, ids))


@mistake("up ignored by another activation", "FI #2882", "silu_without_up", activation="gelu_tanh")
def up_ignored_after_gelu(patch):
    def gate_alone(real, self, gate, up):
        return real(self, gate, torch.ones_like(up))

    around(patch, GeluTanhMul, "__call__", gate_alone)
