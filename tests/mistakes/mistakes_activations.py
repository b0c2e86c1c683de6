"""Mistakes in an activation's parameters, in layers without a gate, and in experts' biases."""

from __future__ import annotations

import dataclasses

import torch

from moe.activations.relu2.member import Relu2Mul
from moe.activations.silu.member import SiluMul
from moe.activations.swiglu.member import SwigluClamped
from moe.experts import triton as triton_experts
from moe.experts.torch_grouped import TorchGroupedExperts
from moe.kernels import activation as activation_kernels
from moe.quant import base as quant_base
from tests.mistakes.mistake import around, mistake

CLAMPED = {"activation": "swiglu_clamped"}
NOT_GATED = {"activation": "relu2_no_mul"}


def with_row(patch, **changes):
    """Give the member other parameters than its row's."""
    patch.setattr(SwigluClamped, "row", dataclasses.replace(SwigluClamped.row, **changes))


@mistake("limit of the activation", "vLLM #41985", "limit_missing", **CLAMPED)
def activation_not_clamped(patch):
    with_row(patch, limit=1e6)


@mistake("limit of the activation", "vLLM #41985", **CLAMPED)
def activation_clamped_at_the_limit_of_another_model(patch):
    with_row(patch, limit=10.0)


@mistake("limit of the activation", "vLLM #41985", "up_limit_missing", **CLAMPED, m=16)
def up_not_clamped(patch):
    def unclamped(real, self, gate, up):
        return real(self, gate, up * 0) / self.row.beta * (up + self.row.beta)

    around(patch, SwigluClamped, "__call__", unclamped)


@mistake("beta of the activation", "vLLM #49747", "beta_missing", **CLAMPED)
def one_not_added_to_up(patch):
    with_row(patch, beta=0.0)


@mistake("alpha of the activation", "vLLM #49747", "alpha_missing", **CLAMPED)
def sigmoid_without_its_factor(patch):
    with_row(patch, alpha=1.0)


@mistake(
    "limit of the activation", "vLLM #41985", "limit_missing", **CLAMPED, experts="triton", m=4
)
def kernel_not_told_of_the_limit(patch):
    def unlimited(real, row):
        return {**real(row), "LIMIT": None}

    around(patch, activation_kernels, "constants", unlimited)


@mistake("activation not the asked one", "vLLM #49747", "relu", **NOT_GATED)
def relu_not_squared(patch):
    patch.setattr(Relu2Mul, "__call__", lambda self, gate, up: torch.relu(gate))


@mistake("activation not the asked one", "FI #2882", "silu", **NOT_GATED, experts="torch_loop")
def silu_for_squared_relu(patch):
    patch.setattr(Relu2Mul, "__call__", SiluMul.__call__)


# --- biases


def biased(patch, change):
    """Hand the backend other biases: `change(weights) -> weights`."""
    around(
        patch, TorchGroupedExperts, "prepare_weights", lambda real, self, w: real(self, change(w))
    )


BIASED = {"expert_bias": True}


@mistake("bias of an expert", "FI #1876", "first_bias_missing", **BIASED)
def first_bias_not_passed_on(patch):
    biased(patch, lambda w: w.replace(b13=torch.zeros_like(w.b13)))


@mistake("bias of an expert", "FI #1876", "second_bias_missing", **BIASED)
def second_bias_not_passed_on(patch):
    biased(patch, lambda w: w.replace(b2=torch.zeros_like(w.b2)))


@mistake("bias on every rank", "FI #3755", "second_bias_on_each_rank", **BIASED, tp_size=2)
def second_bias_kept_by_each_shard(patch):
    def kept(real, weights, columns, intermediate):
        found = real(weights, columns, intermediate)
        return {**found, "b2": weights.b2}

    around(patch, quant_base, "_shard_biases", kept)


@mistake("bias after the router weight", "FI #3755", "second_bias_unweighted", **BIASED)
def second_bias_added_to_the_sum(patch):
    def apply(real, self, x, routing):
        ids = routing.topk_ids
        used = (ids >= 0)[:, :, None]
        whole = torch.where(used, self.b2[ids.clamp(min=0).long()], 0.0).sum(dim=1)
        return (real(self, x, routing) + whole).to(self.dtype)

    def prepare(real, self, w):
        self.b2 = w.b2.float()
        real(self, w.replace(b2=torch.zeros_like(w.b2)))

    around(patch, TorchGroupedExperts, "prepare_weights", prepare)
    around(patch, TorchGroupedExperts, "apply", apply)


@mistake("order of gate and up in a bias", "SGLang #32430", "bias_halves_swapped", **BIASED)
def gate_and_up_bias_swapped(patch):
    biased(patch, lambda w: w.replace(b13=w.b13.roll(w.b13.shape[1] // 2, 1)))


@mistake(
    "interleaved bias",
    "vLLM #40082",
    "bias_interleaved",
    **BIASED,
    activation="swiglu_clamped",
)
def bias_read_as_interleaved(patch):
    """The weights were converted from a checkpoint's interleaved rows, the bias was not."""
    biased(patch, lambda w: w.replace(b13=torch.cat([w.b13[:, ::2], w.b13[:, 1::2]], dim=1)))


@mistake("bias of one expert", "FI #1876", "expert_without_biases", **BIASED, m=16)
def biases_of_an_expert_lost(patch):
    def without(w):
        b13, b2 = w.b13.clone(), w.b2.clone()
        b13[1], b2[1] = 0, 0
        return w.replace(b13=b13, b2=b2)

    biased(patch, without)


@mistake("bias of another expert", "FI #1876", "biases_of_next_expert", **BIASED, experts="triton")
def kernel_reads_the_next_experts_bias(patch):
    def shifted(real, *args, bias=None, **kw):
        return real(*args, bias=None if bias is None else bias.roll(-1, 0), **kw)

    around(patch, triton_experts, "grouped_gemm", shifted)
