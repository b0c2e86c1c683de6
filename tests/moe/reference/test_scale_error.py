"""The error of a scale: it is counted where noise can change it, and only there."""

import pytest
import torch

from moe.formats import FORMATS
from moe.numerics import Numerics
from moe.reference import formats
from moe.reference.error_propagation import Noisy
from moe.reference.scale_error import Scale, dynamic_scale, largest_of, quantize_noisy

PLAIN = Numerics.stated()


def noisy(value, sigma=0.0, doubt=0.0):
    """Values with normal noise, or with a jump of this size in each tenth draw."""
    doubts = torch.full_like(value, doubt)
    return Noisy(
        value=value,
        variance=torch.full_like(value, sigma**2),
        jumps=0.1 * doubts.square(),
        doubt=doubts,
    )


@pytest.mark.parametrize("name", ["mxfp8", "mxfp4"])
def test_a_scale_jumps_where_its_largest_value_is_near_a_power_of_two(name):
    """The largest value of each row times the power of two at which the scale doubles."""
    fmt = FORMATS[name]
    edge = 448.0 if fmt.scale_rounding == "up" else 8.0
    torch.manual_seed(0)
    h = torch.rand(4, 32) * 0.8
    h[:, 3] = torch.tensor([1.0001, 0.9999, 1.2, 0.7])
    h = h * edge
    h[2:, 4:] = 0
    h[3] = h[3].clamp(max=0.6 * edge)
    scale = dynamic_scale(noisy(h, sigma=1e-4 * edge), fmt, PLAIN)
    (above, chance), (below, chance_below) = scale.others
    assert (above / scale.scale)[:, 0].tolist() == [1.0, 2.0, 1.0, 1.0]
    assert (below / scale.scale)[:, 0].tolist() == [0.5, 1.0, 1.0, 1.0]
    assert chance[:, 0].tolist() == [0, 0.5, 0, 0]
    assert chance_below[:, 0].tolist() == [0.5, 0, 0, 0]


def test_a_block_scale_in_e4m3_jumps_where_it_is_near_a_tie():
    fmt = FORMATS["nvfp4_static"]
    tie = 17.0 * 6  # the scales 16 and 18 meet at 17
    h = torch.zeros(3, 16)
    h[:, 5] = torch.tensor([tie - 0.001, tie + 0.001, 16.2 * 6])
    total = Scale(scale=torch.ones(()), doubt=torch.zeros(()), chance=torch.zeros(()))
    scale = dynamic_scale(noisy(h, sigma=0.001), fmt, PLAIN, total)
    assert scale.scale[:, 0].tolist() == [16, 18, 16]
    (above, _), (below, _) = scale.others
    assert above[:, 0].tolist() == [18, 18, 16]
    assert below[:, 0].tolist() == [16, 16, 16]


@pytest.mark.parametrize("name", ["mxfp8", "mxfp4", "nvfp4_dynamic", "fp8_dynamic", "fp8_group"])
def test_the_error_covers_what_perturbed_values_give(name):
    """Each draw moves values by normal noise, and one in ten by a jump, as `jumps` says."""
    fmt = FORMATS[name]
    torch.manual_seed(1)
    h = torch.randn(64, 128) * torch.exp2(torch.randn(64, 1))
    sigma, jump = 1e-6, 4e-3  # of float32 sums, and of a rounding to bf16
    expected = noisy(h, sigma, jump)
    scale = dynamic_scale(expected, fmt, PLAIN)
    result = quantize_noisy(expected, scale, fmt)
    squares, worst = torch.zeros_like(h), torch.zeros_like(h)
    draws = 40
    for _ in range(draws):
        moved = h + sigma * torch.randn_like(h)
        moved += jump * (torch.rand_like(h) < 0.1) * torch.randn_like(h).sign()
        values = formats.quantize(moved, formats.activation_scale(moved, fmt, None), fmt).values
        squares += (values - result.value).square() / draws
        worst = torch.maximum(worst, (values - result.value).abs())
    assert float(squares.sum()) <= 1.2 * float((result.jumps + result.variance).sum())
    shifted = 2 * result.doubt  # a code may be larger than its value, and shifts with the scale
    beyond = worst > shifted + 2e-5 * h.abs()
    assert float(beyond.float().mean()) < 2e-3, "a few draws beyond five sigma, or two jumps"


def test_without_noise_nothing_is_in_doubt():
    h = noisy(torch.randn(4, 64))
    for name in ("mxfp4", "mxfp8", "nvfp4_dynamic"):
        scale = dynamic_scale(h, FORMATS[name], PLAIN)
        assert all(torch.equal(other, scale.scale) for other, _ in scale.others)
        assert float(scale.chance.sum()) == 0


def test_the_largest_value_of_all_rows_has_the_error_of_its_rivals():
    h = torch.tensor([[1.0, -3.0], [2.99, 0.5]])
    largest = largest_of(noisy(h, doubt=0.02))
    assert largest.scale.item() == 3.0
    assert largest.doubt.item() == pytest.approx(0.02 / 3)
    assert largest.chance.item() == pytest.approx(0.1)


@pytest.mark.parametrize("name", ["mxfp8", "mxfp4"])
def test_values_without_noise_have_none_after_division_by_a_power_of_two(name):
    """Values of the layer's dtype lie on ties, and their largest where the scale doubles."""
    fmt = FORMATS[name]
    edge = 448.0 if fmt.scale_rounding == "up" else 8.0
    h = (torch.arange(1, 129).reshape(4, 32) / 128 * edge).bfloat16().float()
    h[:, 3] = edge
    scale = dynamic_scale(noisy(h), fmt, PLAIN)
    assert (formats.quantize(h, scale.scale, fmt).tie == 0).any()
    found = quantize_noisy(noisy(h), scale, fmt)
    assert not found.jumps.any()
    assert not found.doubt.any()
    shaken = noisy(h, sigma=edge * 2.0**-20)
    again = quantize_noisy(shaken, dynamic_scale(shaken, fmt, PLAIN), fmt)
    assert (again.jumps > 0).any()


def test_a_float32_scale_may_be_multiplied_by_its_reciprocal():
    fmt = FORMATS["int8_token"]
    h = torch.arange(-127, 128)[None] / 2.0
    h[0, 0] = 127.0  # the scale is 1, and every other value lies on a tie
    scale = dynamic_scale(noisy(h), fmt, PLAIN)
    assert quantize_noisy(noisy(h), scale, fmt).jumps.any()
