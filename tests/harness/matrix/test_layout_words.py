"""`--layouts`: what the words mean, and each rule that a wrong list breaks."""

import pytest

from harness.errors import ExitCode, UsageError
from harness.matrix.case import MoETestConfig
from harness.matrix.layout_words import check_share, parse_layouts
from moe.errors import MoEError
from moe.layout import Layout


@pytest.mark.parametrize(
    ("text", "layout"),
    [
        ("tp:1", Layout()),
        ("ep:1", Layout()),
        ("tp:8", Layout(tp_size=8)),
        ("dp:2", Layout(dp_size=2)),
        ("dp:2+tp:4", Layout(dp_size=2, tp_size=4)),
        ("ep:8", Layout(dp_size=8, use_ep=True)),
        ("dp:8+ep", Layout(dp_size=8, use_ep=True)),
        ("tp:2+ep:8", Layout(dp_size=4, tp_size=2, use_ep=True)),
        ("tp:8+ep", Layout(tp_size=8, use_ep=True)),
        ("dp:2+tp:2+ep:4", Layout(dp_size=2, tp_size=2, use_ep=True)),
        ("tp:2+ep+sp", Layout(tp_size=2, use_ep=True, sequence_parallel=True)),
        ("pcp:2+tp:2", Layout(pcp_size=2, tp_size=2)),
        ("pcp:2+ep:8", Layout(dp_size=4, pcp_size=2, use_ep=True)),
        ("tp:2+ep:4+moe_tp:2", Layout(dp_size=4, tp_size=2, use_ep=True, moe_tp_size=2)),
        ("dp:4+ep+moe_tp:2", Layout(dp_size=4, use_ep=True, moe_tp_size=2)),
        ("ep:4+expert_dp:2", Layout(dp_size=8, use_ep=True, expert_dp_size=2)),
        ("sp+ep:4+tp:2", Layout(dp_size=2, tp_size=2, use_ep=True, sequence_parallel=True)),
    ],
)
def test_words_make_a_layout(text, layout):
    (choice,) = parse_layouts(text)
    assert choice.layout == layout
    assert not choice.is_share
    assert choice.experts(128) == 128


@pytest.mark.parametrize(
    ("text", "layout", "total", "experts"),
    [
        ("ep:8/1", Layout(), 128, 16),
        ("ep:8/1", Layout(), 60, 8),  # the first ranks hold one more
        ("ep:8/1", Layout(), 1, 1),
        ("ep:8/2", Layout(dp_size=2, use_ep=True), 128, 32),
        ("tp:2+ep:16/4", Layout(dp_size=2, tp_size=2, use_ep=True), 256, 64),
    ],
)
def test_a_share_is_what_the_first_ranks_hold(text, layout, total, experts):
    (choice,) = parse_layouts(text)
    assert choice.layout == layout
    assert choice.is_share
    assert choice.experts(total) == experts


def test_a_list_keeps_its_order_and_no_layout_twice():
    layouts = parse_layouts("tp:2, ep:2,dp:2+ep")
    assert [choice.layout for choice in layouts] == [
        Layout(tp_size=2),
        Layout(dp_size=2, use_ep=True),
    ]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "'' is not a word of a layout"),
        ("tp:2,", "'' is not a word of a layout"),
        ("tp", "'tp' is not a word of a layout"),
        ("tp:0", "'tp:0' is not a word of a layout"),
        ("tp=8", "'tp=8' is not a word of a layout"),
        ("pp:2", "'pp:2' is not a word of a layout"),
        ("tp:2+tp:2", "tp is given twice"),
        ("ep+ep", "a word is given twice"),
        ("ep+ep:2", "a word is given twice"),
        ("tp:3+ep:8", "dp * pcp * tp is 6, and ep spreads the experts over 8"),
        ("dp:2+tp:2+ep:8", "dp * pcp * tp is 4, and ep spreads the experts over 8"),
        ("tp:2+sp", "sp needs ep, and tp of 2 or more"),
        ("ep:2+sp", "sp needs ep, and tp of 2 or more"),
        (
            "dp:3+ep:2+moe_tp:2",
            "dp * pcp * tp is 3, and ep spreads the experts over 2 times 2, which",
        ),
        ("tp:4+moe_tp:2", "every expert is split over all ranks; set use_ep"),
        ("dp:3+ep+moe_tp:2", "groups of 2 do not divide 3 ranks; choose a divisor"),
        (
            "ep:8/4+moe_tp:2",
            "a share of the ranks has whole experts; leave moe_tp and expert_dp out",
        ),
        ("tp:8/1", "only ep can be a share, as ep:8/1, not tp"),
        ("ep:8/8", "a share has fewer than all 8 ranks; write ep:8"),
        ("ep:8/0", "'ep:8/0' is not a word of a layout"),
        ("tp:2+ep:8/1", "dp * pcp * tp is 2, and ep spreads the experts over 1"),
    ],
)
def test_a_wrong_list_names_the_rule_and_shows_right_ones(text, rule):
    with pytest.raises(UsageError) as error:
        parse_layouts(text)
    assert rule in str(error.value)
    assert str(error.value).endswith(
        "give layouts such as tp:1, tp:8, dp:2, ep:8, tp:2+ep:8, tp:2+ep+sp or ep:8/1"
    )
    assert error.value.exit_code is ExitCode.USAGE


def test_a_share_has_no_more_experts_than_its_layer():
    case = MoETestConfig(m=1, n=64, k=64, num_experts=16, top_k=2, experts="triton")
    check_share(case)
    check_share(case.replace(total_experts=16))
    with pytest.raises(MoEError, match=r"of:15 counts all experts .* at least the share's e:16"):
        check_share(case.replace(total_experts=15))
