"""Every rounding rule, kernel against twin, and the twin against what torch itself says."""

import pytest
import torch
import triton
import triton.language as tl

from moe.kernels import rounding
from moe.kernels.launch import launch
from moe.kernels.quantize import quantize_tensor
from tests.moe.kernels.kernel_cases import same
from tests.moe.kernels.pinned_triton import pinned_triton


@triton.jit
def _round_all(
    x_ptr, e4m3_ptr, grid_ptr, fnuz_ptr, fnuz_grid_ptr, int8_ptr, bf16_ptr, fp16_ptr, size,
    BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = at < size
    x = tl.load(x_ptr + at, mask=live, other=0.0)
    tl.store(e4m3_ptr + at, rounding.e4m3_codes(x), mask=live)
    tl.store(grid_ptr + at, rounding.round_to_e4m3(x), mask=live)
    tl.store(fnuz_ptr + at, rounding.e4m3fnuz_codes(x), mask=live)
    tl.store(fnuz_grid_ptr + at, rounding.round_to_e4m3fnuz(x), mask=live)
    tl.store(int8_ptr + at, rounding.int8_codes(x), mask=live)
    tl.store(bf16_ptr + at, rounding.to_model_dtype(x, tl.bfloat16), mask=live)
    tl.store(fp16_ptr + at, rounding.to_model_dtype(x, tl.float16), mask=live)


@triton.jit
def _read(code_ptr, out_ptr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(out_ptr + at, rounding.values_of(tl.load(code_ptr + at)))


def _all_bf16():
    return torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16).float()


def _around_ties(grid):
    """The middle between neighbours, and the float32 values on either side of it; both signs."""
    ties = (grid[1:] + grid[:-1]) / 2
    up, down = torch.nextafter(ties, ties + 1), torch.nextafter(ties, ties - 1)
    return torch.cat([grid, ties, up, down, -grid, -ties, -up, -down])


def _e4m3_grid():
    return torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()


def _fnuz_grid():
    return torch.arange(128, dtype=torch.uint8).view(torch.float8_e4m3fnuz).float()


def _inputs():
    torch.manual_seed(0)
    bits = torch.randint(-(1 << 31), 1 << 31, (100_000,)).to(torch.int32)
    named = [31.37, 449.0, 464.0, 465.0, 500.0, 1e30, 0.0, -0.0, 126.5, 127.5, 65519.0, 65520.0]
    edges = [float("inf"), -float("inf"), float("nan"), 2.0**-10, 2.0**-9, 1.5 * 2.0**-9]
    whole = torch.arange(-300, 301).float() / 2
    return torch.cat(
        [
            *(_all_bf16(), _around_ties(_e4m3_grid()), _around_ties(_fnuz_grid())),
            *(
                bits.view(torch.float32),
                torch.randn(100_000) * 30,
                torch.tensor(named + edges),
                whole,
                _around_ties(whole),
            ),
        ]
    )


NAMES = ("e4m3", "grid", "fnuz", "fnuz_grid", "int8", "bf16", "fp16")


@pytest.fixture
def rounded(kernel_device):
    x = _inputs().to(kernel_device)
    fp8 = (torch.uint8, torch.float32)
    types = (*fp8, *fp8, torch.int8, torch.bfloat16, torch.float16)
    outs = [torch.empty(x.shape, dtype=t, device=kernel_device) for t in types]
    block = 1 << 18 if kernel_device.type == "cpu" else 1024
    launch(_round_all, (triton.cdiv(len(x), block),), x.device, x, *outs, len(x), BLOCK=block)
    return x, dict(zip(NAMES, outs, strict=True))


def test_kernels_and_twins_give_the_same_bits(rounded):
    x, got = rounded
    assert same(got["e4m3"], rounding.e4m3_codes_torch(x))
    assert same(got["grid"], rounding.round_to_e4m3_torch(x))
    assert same(got["fnuz"], rounding.e4m3fnuz_codes_torch(x))
    assert same(got["fnuz_grid"], rounding.round_to_e4m3fnuz_torch(x))
    assert same(got["int8"], rounding.int8_codes_torch(x))
    assert same(got["bf16"], x.bfloat16())
    assert same(got["fp16"], x.half())


@pytest.mark.parametrize(
    ("grid", "codes_of"),
    [
        (_e4m3_grid(), rounding.e4m3_codes_torch),
        (_fnuz_grid(), rounding.e4m3fnuz_codes_torch),
    ],
    ids=["e4m3", "e4m3fnuz"],
)
def test_codes_stand_for_the_nearest_value_and_ties_go_to_the_even_code(
    grid, codes_of, kernel_device
):
    grid = grid.to(kernel_device)
    x = _around_ties(grid)
    code = codes_of(x).int()
    distance = (x.double().abs()[:, None] - grid.double()[None, :]).abs()
    nearest = distance == distance.amin(dim=1, keepdim=True)
    even = nearest & (torch.arange(len(grid)) % 2 == 0)
    wanted = torch.where(nearest.sum(1) > 1, even.int().argmax(1), nearest.int().argmax(1))
    assert torch.equal(code & 0x7F, wanted.int())


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (31.37, 0x60),  # 32: a carry into the exponent
        (449.0, 0x7E),
        (1e30, 0x7E),
        (float("-inf"), 0xFE),
        (float("nan"), 0x7F),
        (-0.0, 0x80),
        (2.0**-10, 0x00),  # a tie between 0 and the smallest value
        (-(2.0**-10), 0x80),
        (1.5 * 2.0**-9, 0x02),  # a tie between subnormals
    ],
)
def test_e4m3_codes_by_hand(value, code, rounded):
    x, got = rounded
    wanted = torch.tensor(value, device=x.device)
    assert int(rounding.e4m3_codes_torch(wanted)) == code
    bits = x.view(torch.int32) == wanted.view(torch.int32)
    found = got["e4m3"][x.isnan() if value != value else bits]
    assert len(found)
    assert bool((found == code).all())


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (15.69, 0x60),  # 16: a carry into the exponent
        (241.0, 0x7F),
        (1e30, 0x7F),
        (float("-inf"), 0xFF),
        (float("nan"), 0x80),
        (-0.0, 0x00),  # the code of -0 is the NaN
        (2.0**-11, 0x00),  # a tie between 0 and the smallest value
        (-(2.0**-11), 0x00),
        (-(2.0**-10), 0x81),
        (1.5 * 2.0**-10, 0x02),  # a tie between subnormals
    ],
)
def test_e4m3fnuz_codes_by_hand(value, code, kernel_device):
    x = torch.full((1, 4), value, device=kernel_device)
    assert rounding.e4m3fnuz_codes_torch(x).tolist() == [[code] * 4]
    one = torch.ones((), device=kernel_device)
    codes = quantize_tensor(x, one, "fp8_fnuz")
    assert codes.view(torch.uint8).tolist() == [[code] * 4]


def test_int8_saturates_and_rounds_ties_to_even():
    x = torch.tensor([0.5, 1.5, -2.5, 127.5, 1e9, -1e9, float("nan")])
    assert rounding.int8_codes_torch(x).tolist() == [0, 2, -2, 127, 127, -127, 0]


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, pytest.param(torch.float8_e4m3fnuz, marks=pinned_triton)]
)
def test_every_fp8_code_is_read_as_its_value(dtype, kernel_device):
    if kernel_device.type == "cuda" and dtype == torch.float8_e4m3fnuz:
        pytest.skip("Triton reads e4m3fnuz on gfx942 and in its interpreter only")
    codes = torch.arange(256, dtype=torch.uint8).view(dtype).to(kernel_device)
    out = torch.empty(256, device=kernel_device)
    launch(_read, (1,), kernel_device, codes, out, BLOCK=256)
    assert same(out, codes.float())
