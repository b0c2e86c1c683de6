"""A format's row: what it can say, and how many scales it gives a matrix."""

import dataclasses

import pytest

from moe.formats import FORMATS

FP8 = FORMATS["fp8_tensor"]


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("fp8_tensor", {"scale_dtype": "e5m2"}, "scale_dtype 'e5m2'; codecs and reference support"),
        ("fp8_tensor", {"packing": 4}, "packing 4; codecs and reference support only 1, 2"),
        ("fp8_tensor", {"packing": 2}, "packing 2 and block .* a group of a row must be whole"),
        ("fp8_tensor", {"zero_point": True}, "a zero point; it needs groups of a row, and codes"),
        ("fp8_tensor", {"global_scale": True}, "f32 scales and global_scale True; e4m3 scales"),
        ("mxfp4", {"block": (1, 16)}, r"e8m0 scales and block \(1, 16\); they need \(1, 32\)"),
        ("nvfp4", {"block": (1, 32)}, r"e4m3 scales and block \(1, 32\); they need \(1, 16\)"),
        ("nvfp4", {"global_scale": False}, "e4m3 scales and global_scale False; e4m3 scales need"),
        (
            "mxfp4",
            {"scale_rounding": None},
            "e8m0 scales and scale_rounding None; e8m0 scales",
        ),
        (
            "nvfp4",
            {"scale_rounding": "up"},
            "e4m3 scales and scale_rounding 'up'; e8m0 scales",
        ),
        (
            "int4_zp_g32",
            {"bottom": -8.0},
            "a zero point; it needs groups of a row, and codes",
        ),
    ],
)
def test_impossible_combinations_are_no_format(name, changes, text):
    with pytest.raises(ValueError, match=f"format '{name}' has {text}"):
        dataclasses.replace(FORMATS[name], **changes)


@pytest.mark.parametrize(
    ("name", "rule"), [("mxfp4", "floor"), ("mxfp8", "up"), ("nvfp4", None), ("int4_g32", None)]
)
def test_each_e8m0_scale_states_how_it_is_rounded(name, rule):
    assert FORMATS[name].scale_rounding == rule


def test_codes_need_a_block_and_values_have_none():
    with pytest.raises(ValueError, match="grid 'e4m3' and block None; codes need a block, such as"):
        dataclasses.replace(FP8, block=None)
    with pytest.raises(ValueError, match=r"grid 'model' and block \(1, None\); codes need a block"):
        dataclasses.replace(FORMATS["model"], block=(1, None))


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("fp8_tensor", (1, 1)),
        ("fp8_block", (2, 3)),
        ("fp8_group", (130, 3)),
        ("int8_channel", (130, 1)),
    ],
)
def test_a_matrix_has_one_scale_for_each_block_and_for_each_cut_one(name, counts):
    assert FORMATS[name].blocks(130, 300) == counts


def test_a_format_without_a_block_has_no_scales():
    with pytest.raises(AssertionError, match="model has no scales"):
        FORMATS["model"].blocks(2, 2)


@pytest.mark.parametrize(
    ("block", "one", "by_rows"),
    [((None, None), True, False), ((1, None), False, True), ((None, 4), False, False)],
)
def test_what_shares_a_scale_is_read_from_the_block(block, one, by_rows):
    fmt = dataclasses.replace(FP8, block=block)
    assert (fmt.has_one_scale, fmt.has_row_scales) == (one, by_rows)


def test_rows_of_formats_serve_as_keys():
    """Equal rows are one key although a row holds a dict, and caches have them in their keys."""
    again = dataclasses.replace(FP8)
    odd = dataclasses.replace(FP8, name="odd")
    assert {FP8: 1, odd: 2}[again] == 1
    assert len({FP8, again, odd}) == 2


@pytest.mark.parametrize(
    ("name", "rows", "splits"),
    [
        ("model", 128, False),
        ("fp8_tensor", 128, False),
        ("fp8_channel", 100, True),
        ("int8_block", 256, True),
        ("int8_block", 192, False),
    ],
)
def test_rows_split_where_a_block_ends(name, rows, splits):
    assert FORMATS[name].splits(rows) == splits


def test_integers_are_known_by_their_grid():
    assert FORMATS["int8_block"].is_integer
    assert not FP8.is_integer
    assert not FORMATS["model"].is_integer
