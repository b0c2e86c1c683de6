"""Mistakes in the projections of a latent layer."""

from __future__ import annotations

import dataclasses

import torch
from torch.nn.functional import pad

from moe import latent, layer
from tests.mistakes.mistake import SAYS, around, mistake

NO_REPORT = "none known"
KIND = "latent projections"


def _with(patch, change):
    """Build the layer with other projections."""

    def built(real, *args, latent=None, **kw):
        return real(*args, latent=dataclasses.replace(latent, **change(latent)), **kw)

    around(patch, layer, "build", built)


@mistake(KIND, NO_REPORT, "latent_not_entered", latent=96)
def first_columns_in_place_of_the_projection(patch):
    def first(real, self, x):
        return x[:, : self.down.shape[0]].contiguous()

    around(patch, latent.LatentProjections, "enter", first)


@mistake(KIND, NO_REPORT, "latent_not_left", latent=96)
def sums_left_in_the_latent_width(patch):
    def padded(real, self, sums):
        return pad(sums, (0, self.up.shape[0] - sums.shape[1]))

    around(patch, latent.LatentProjections, "leave", padded)


@mistake(KIND, NO_REPORT, "latent_tied", latent=96, dp_size=2, use_ep=True)
def way_back_by_the_transposed_way_in(patch):
    _with(patch, lambda own: {"up": own.down.T.contiguous()})


@mistake(KIND, NO_REPORT, "latent_swapped", latent=96, n=128, quant="fp8_block")
def projections_loaded_for_each_other(patch):
    _with(patch, lambda own: {"up": own.down.T.contiguous(), "down": own.up.T.contiguous()})


@mistake(KIND, NO_REPORT, "latent_last_block_missing", latent=96, k=256)
def last_hidden_block_not_projected(patch):
    def short(real, self, x):
        x = x.clone()
        x[:, 128:] = 0
        return real(self, x)

    around(patch, latent.LatentProjections, "enter", short)


@mistake(KIND, NO_REPORT, "latent_entered_twice", latent=128)
def tokens_projected_twice(patch):
    around(
        patch, latent.LatentProjections, "enter", lambda real, self, x: real(self, real(self, x))
    )


@mistake(KIND, NO_REPORT, "latent_for_shared", latent=128, shared_experts=1)
def shared_experts_given_the_projected_tokens(patch):
    entered = []

    def kept(real, self, x):
        entered.append(real(self, x))
        return entered[-1]

    around(patch, latent.LatentProjections, "enter", kept)
    around(patch, layer.SharedExperts, "forward", lambda real, self, x: real(self, entered[-1]))


@mistake(KIND, NO_REPORT, f"{SAYS}truncation", latent=96)
def way_back_truncates(patch):
    def cut(real, self, sums):
        product = sums.float() @ self.up.float().T
        return (product.view(torch.int32) & -65536).view(torch.float32).to(sums.dtype)

    around(patch, latent.LatentProjections, "leave", cut)
