"""Bundles of tensors: each matrix goes with its scale and format."""

import pytest
import torch

from moe.errors import MoEError
from moe.formats import FORMATS
from moe.spec import DTYPE_BYTES
from moe.types import TORCH_DTYPE, Activations, ExpertWeights


def weights(**fields):
    return ExpertWeights(w13=torch.ones(2, 8, 4), w2=torch.ones(2, 4, 4), **fields)


def test_a_layer_s_dtypes_are_torch_s_of_that_size():
    assert {name: dtype.itemsize for name, dtype in TORCH_DTYPE.items()} == DTYPE_BYTES


def test_each_matrix_has_its_own_scale_and_the_format_of_both():
    fmt = FORMATS["int8_channel"]
    held = weights(w13_scale=torch.ones(2, 8), w2_scale=torch.ones(2, 4), format=fmt)
    for matrix, codes, scale in (
        (held.gate_up, held.w13, held.w13_scale),
        (held.down, held.w2, held.w2_scale),
    ):
        assert matrix.codes is codes
        assert matrix.scale is scale
        assert matrix.format is fmt
        matrix.check_scales()


def test_scales_of_weights_without_a_format_are_refused():
    with pytest.raises(MoEError, match="a scale, but format 'model' has no"):
        weights(w2_scale=torch.ones(2)).down  # noqa: B018  # reading it is what raises


def test_replaced_bundles_are_of_the_same_kind_and_leave_the_old_as_it_was():
    x = Activations(codes=torch.ones(3, 4))
    more = x.replace(codes=torch.ones(5, 4))
    assert isinstance(more, Activations)
    assert (len(more.codes), len(x.codes)) == (5, 3)
    held = weights()
    scale = torch.tensor(2.0)
    assert held.replace(a1_scale=scale).a1_scale is scale
    assert held.a1_scale is None
