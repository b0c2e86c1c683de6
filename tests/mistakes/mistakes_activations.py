"""Mistakes in an activation's parameters, and in layers without a gate."""

from __future__ import annotations

import dataclasses

import torch

from moe.activations.relu2.member import Relu2Mul
from moe.activations.silu.member import SiluMul
from moe.activations.swiglu.member import SwigluClamped
from moe.kernels import activation as activation_kernels
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
