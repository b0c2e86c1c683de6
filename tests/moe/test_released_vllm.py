"""What vLLM must have, and what of a layer its kernels refuse."""

import pytest

from moe import packages, released_vllm
from moe.layout import Layout
from moe.platforms import platform
from moe.quant import QUANT
from moe.spec import LayerSpec

ALL = (released_vllm.TRITON, released_vllm.PERMUTE, released_vllm.ROUTER)
SM90 = platform("cuda_sm90")


def layer_spec(quant="none", layout=None, **sizes):
    given = {"m": 4, "hidden": 256, "intermediate": 256, "num_experts": 8, "top_k": 2} | sizes
    return LayerSpec(**given, scheme=QUANT.row(quant).scheme, layout=layout or Layout())


@pytest.mark.parametrize("package", ALL)
def test_a_package_that_is_installed_fits(package):
    """Where it is not, the only reason is that it is missing."""
    reason = packages.refusal(package)
    assert reason is None or reason.code == "package_missing"


def test_all_rows_import_the_same_modules():
    """A plan waits for one process, which takes ten seconds."""
    assert len({package.modules for package in ALL}) == 1


@pytest.mark.parametrize(
    ("num_experts", "layout", "is_refused"),
    [
        (991, Layout(), False),
        (992, Layout(), True),
        (992, Layout(dp_size=2), True),
        (992, Layout(dp_size=2, use_ep=True), False),
    ],
)
def test_the_alignment_takes_991_experts_of_a_rank(num_experts, layout, is_refused):
    reason = released_vllm.sizes_fit(layer_spec(num_experts=num_experts, layout=layout), SM90)
    assert (reason is not None) == is_refused
    if reason is not None:
        assert (reason.code, reason.text) == (
            "too_many_experts",
            "moe_align_block_size takes at most 991 experts on a rank, not 992",
        )


@pytest.mark.parametrize(
    ("quant", "sizes", "text"),
    [
        ("fp8_block", {"hidden": 192}, "hidden size 192 is not a multiple of 128"),
        ("fp8_block", {"intermediate": 64}, "a rank's intermediate size 64 is not a multiple"),
        ("fp8_block", {"hidden": 384}, None),
        ("int8_channel", {"hidden": 192, "intermediate": 40}, None),
        ("none", {"hidden": 72}, None),
    ],
)
def test_only_groups_must_be_whole(quant, sizes, text):
    reason = released_vllm.sizes_fit(layer_spec(quant, **sizes), SM90)
    assert (reason is None) == (text is None)
    if reason is not None:
        assert reason.code == "size_not_multiple"
        assert reason.text.startswith(text)


@pytest.mark.parametrize(
    ("dtype", "chip", "is_refused"),
    [("f32", "cuda_sm90", True), ("f32", "cpu", False), ("bf16", "cuda_sm90", False)],
)
def test_products_of_float32_are_refused_where_they_are_tf32(dtype, chip, is_refused):
    reason = released_vllm.multiplies_exactly(layer_spec(dtype=dtype), platform(chip))
    assert (reason is not None) == is_refused
    if reason is not None:
        assert (reason.code, reason.text) == (
            "dtype_unsupported",
            "vLLM's kernel multiplies f32 as TF32 on cuda_sm90; take bf16 or fp16",
        )


FIRST = "the first product has {} columns; with mxfp4 on {} triton_kernels reads scales for blocks "
SECOND = FIRST.replace("first", "second")
NARROW = {"intermediate": 128, "activation": "relu2_no_mul"}


@pytest.mark.parametrize(
    ("chip", "sizes", "text"),
    [
        ("cuda_sm90", {"hidden": 256, "intermediate": 96}, None),  # with its gate 192 columns
        ("cuda_sm90", {"hidden": 160, "intermediate": 65}, None),
        ("cuda_sm90", {"hidden": 256, "intermediate": 64}, FIRST.format(128, "cuda_sm90")),
        ("cuda_sm90", NARROW, FIRST.format(128, "cuda_sm90")),
        ("cuda_sm90", NARROW | {"intermediate": 129}, None),
        ("cuda_sm90", {"hidden": 128}, SECOND.format(128, "cuda_sm90")),
        ("cuda_sm90", {"layout": Layout(tp_size=4)}, FIRST.format(128, "cuda_sm90")),
        ("cuda_sm100", {"hidden": 96}, None),
        ("cuda_sm100", {"hidden": 64}, SECOND.format(64, "cuda_sm100")),
        ("rocm_gfx950", {"hidden": 32}, None),
    ],
)
def test_a_product_of_mxfp4_is_wider_than_half_a_block_of_scales(chip, sizes, text):
    reason = released_vllm.blocks_hold_scales(layer_spec("mxfp4", **sizes), platform(chip))
    assert (reason is None) == (text is None)
    if reason is not None:
        block = 256 if chip == "cuda_sm90" else 128
        assert reason.code == "size_too_small"
        assert reason.text == f"{text}of {block}, which need more than {block // 2}"


def test_products_without_scales_may_be_narrow():
    assert released_vllm.blocks_hold_scales(layer_spec(hidden=32), SM90) is None
