"""Drawn rows of experts and the codes of the weights that they are multiplied by."""

from __future__ import annotations

import torch

from harness.diagnosis.which_weights import Multiplied, codes_of
from moe.formats import FORMATS


def drawn(name, seed, *, rows, inner, columns, experts=2):
    """What each expert multiplies: `rows` rows each, and codes [columns, inner] of a format."""
    draw = torch.Generator().manual_seed(seed)
    return [
        Multiplied(
            rows=torch.arange(e * rows, (e + 1) * rows),
            x=torch.randn(rows, inner, generator=draw),
            codes=codes_of(
                torch.randn(columns, inner, generator=draw).bfloat16().float(), FORMATS[name]
            ),
        )
        for e in range(experts)
    ]
