"""What a row states of its roundings is what its member does, for every option that it takes.

Of this project's rows, and of those of installed packages that run in torch.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.platforms.detect import devices, platform_of
from moe.reference.routing import RoutingTruth
from moe.routers import ROUTERS
from moe.routing_method import BIAS, GROUPS, LOGITS_DTYPE, SCALE, RoutingMethod
from moe.types import TORCH_DTYPE
from tests.moe.routers.test_routers import DEVIATES

IN_TORCH = [row for row in ROUTERS if row.rounding is not None and "triton" not in row.name]
TOKENS = 24


@st.composite
def methods(draw, row):
    groups = draw(st.sampled_from([1, 4])) if GROUPS in row.takes else 1
    kept = draw(st.integers(1, groups))
    bias = BIAS in row.takes and (kept < groups or draw(st.booleans()))
    return RoutingMethod(
        router=row.name,
        top_k=draw(st.integers(1, min(8, 4 * kept))),
        renormalize=draw(st.booleans()),
        bias=bias,
        groups=groups,
        chosen_groups=kept,
        scale=draw(st.sampled_from([1.0, 2.5])) if SCALE in row.takes else 1.0,
        logits_dtype=draw(st.sampled_from(["model", "f32"]))
        if LOGITS_DTYPE in row.takes
        else "f32",
    )


@pytest.mark.parametrize("row", IN_TORCH, ids=lambda row: row.name)
@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from(["bf16", "fp16"]), st.integers(0, 10**6))
def test_a_member_rounds_as_its_row_states(row, data, dtype, seed):
    if not row.needs.are_met_by(platform_of(devices())):
        pytest.skip(f"{row.name} does not run here")
    method = data.draw(methods(row))
    logits_dtype = dtype if method.logits_dtype == "model" else "f32"
    if row.name in DEVIATES and DEVIATES[row.name](logits_dtype, method.renormalize):
        return
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(TOKENS, 16, generator=generator).to(TORCH_DTYPE[logits_dtype])
    bias = torch.rand(16, generator=generator) / 4 if method.bias else None
    options = method.arguments(bias)
    got = ROUTERS.load(row.name)()(logits, method.top_k, renormalize=method.renormalize, **options)
    (numerics,) = row.roundings(method, dtype)
    truth = RoutingTruth(method=method, bias=bias, numerics=numerics)
    assert truth.errors(logits, got.topk_ids, got.topk_weights) == []
