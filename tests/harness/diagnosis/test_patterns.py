"""Patterns: true sentences about what is wrong, and none where chance may have drawn it."""

from __future__ import annotations

import pytest
import torch

from harness.diagnosis import patterns, routing_patterns
from harness.diagnosis.patterns import Mismatch, find_mismatch, of_columns, of_rows
from moe.layout import Layout
from moe.spec import Problem
from tests.harness.diagnosis.mistaken import CASE, call_of


def mask(total: int, wrong: range | list[int]) -> torch.Tensor:
    found = torch.zeros(total, dtype=torch.bool)
    found[list(wrong)] = True
    return found


def texts(found: list[patterns.Pattern]) -> list[str]:
    return [pattern.text for pattern in found]


@pytest.mark.parametrize(
    ("total", "wrong", "text"),
    [
        (222, range(208, 222), "rows 208-221: the last, partly filled block of 16"),
        (222, range(222), "all rows"),
        (222, range(1, 222, 2), "odd rows only"),
        (222, range(0, 222, 2), "even rows only"),
        (64, range(3, 64, 4), "every fourth row only, from 3 on"),
        (256, range(128, 192), "rows 128-191 only: one block of 64"),
        (256, range(17, 40), "rows 17-39 only"),
        (256, range(100), "rows < 100 only"),
        (256, range(192, 256), "rows 192-255: the last block of 64"),
        (100, [0], "the first row only"),
        (100, [99], "the last row only"),
        (
            64,
            [*range(16, 32), *range(48, 64)],
            "every second 16-block of rows only, from row 16 on",
        ),
    ],
)
def test_rows(total, wrong, text):
    assert texts(of_rows(mask(total, wrong))) == [text]


def test_half_a_pattern_is_none():
    """All odd rows and some even ones: "odd rows only" would be untrue."""
    assert of_rows(mask(200, [*range(1, 200, 2), *range(0, 200, 10)])) == []
    assert of_columns(wrong_columns(2048, [*range(1, 2048, 2), *range(0, 2048, 10)])) == []


@pytest.mark.parametrize(
    ("total", "wrong"),
    [(4, [3]), (30, [7]), (40, [5, 9]), (16, [2, 3, 7, 9, 12]), (10, []), (4, [1, 3])],
)
def test_rows_that_chance_may_draw_have_no_pattern(total, wrong):
    assert of_rows(mask(total, wrong)) == []


def wrong_columns(total: int, columns: range | list[int], rows: int = 4) -> Mismatch:
    elements = torch.zeros((2 * rows, total), dtype=torch.bool)
    elements[:rows] = mask(total, columns)
    return Mismatch(rows=elements.any(dim=1), elements=elements)


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        (range(1024, 2048), "columns >= 1024 only"),
        (range(128, 256), "columns 128-255 only: one block of 128"),
        (range(1920, 2048), "columns >= 1920 only: the last block of 128"),
        (range(512), "columns < 512 only"),
        (range(1, 2048, 2), "odd columns only"),
        ([2047], "the last column only"),
        (
            [c for c in range(2048) if c // 128 % 2],
            "every second 128-block of K only, from column 128 on",
        ),
        (
            [c for c in range(2048) if c // 32 % 4 == 2],
            "every fourth 32-block of K only, from column 64 on",
        ),
    ],
)
def test_columns(columns, text):
    assert texts(of_columns(wrong_columns(2048, columns))) == [text]


def test_a_single_row_s_range_is_known_though_some_of_it_is_right_by_luck():
    columns = [c for c in range(1024, 2048) if c % 11]
    columns = columns[3:]
    assert texts(of_columns(wrong_columns(2048, columns, rows=1))) == ["columns >= 1024 only"]


def test_all_columns_or_scattered_ones_have_no_pattern():
    assert of_columns(wrong_columns(2048, range(2048))) == []
    generator = torch.Generator().manual_seed(0)
    scattered = (torch.rand(2048, generator=generator) < 0.1).nonzero().flatten().tolist()
    assert of_columns(wrong_columns(2048, scattered)) == []
    assert of_columns(wrong_columns(2048, [])) == []


EP2 = Layout(dp_size=2, use_ep=True)
EP4 = Layout(dp_size=4, use_ep=True)
GENERATOR = torch.Generator().manual_seed(1)
IDS = torch.stack([torch.randperm(8, generator=GENERATOR)[:2] for _ in range(40)]).int()


def routing(bad, layout=Layout(), rank=0, ids=IDS, whole=False):  # noqa: B008  # frozen
    sizes = {"m": 1, "hidden": 8, "intermediate": 8, "num_experts": 8, "top_k": 2}
    problem = Problem(**sizes, layout=layout)
    return texts(routing_patterns.of_routing(bad, ids, problem, rank, all_tokens=whole))


def test_rows_of_one_rank_s_experts():
    bad = (IDS >= 4).any(dim=1)
    assert routing(bad, EP2) == ["all wrong rows were routed to experts 4-7 (rank 1)"]
    assert routing(bad) == ["all wrong rows were routed to experts 4-7"]


def test_rows_of_one_expert_among_many_ranks():
    bad = (IDS == 5).any(dim=1)
    assert routing(bad, EP4) == ["all wrong rows were routed to expert 5 (rank 2)"]


def test_a_slight_mistake_of_an_expert_may_leave_some_of_its_rows_right():
    bad = (IDS == 5).any(dim=1)
    rows = bad.nonzero().flatten()
    bad[rows[::3]] = False
    left = f"of the {len(rows)} rows that were, {len(rows) - len(rows[::3])} are wrong"
    assert routing(bad) == [f"all wrong rows were routed to expert 5; {left}"]
    bad[rows[1:]] = False  # one row says nothing
    assert routing(bad) == []


def test_a_row_that_is_right_by_luck_does_not_hide_the_pattern():
    bad = (IDS == 5).any(dim=1) | (IDS == 2).any(dim=1)
    lucky = bad.clone()
    lucky[int(bad.nonzero()[3])] = False
    assert routing(lucky) == ["all wrong rows were routed to experts 2, 5"]


def test_rows_with_an_expert_elsewhere():
    ids = torch.cat([IDS, torch.tensor([[0, 1]] * 9, dtype=torch.int32)])
    away = (ids >= 2).any(dim=1)
    assert routing(away, EP4, ids=ids) == ["only rows with an expert on another rank"]
    assert routing(~away, EP4, ids=ids) == ["only rows all of whose experts are local"]


def test_rows_with_an_empty_slot():
    ids = IDS.clone()
    ids[5:12, 1] = -1
    bad = (ids < 0).any(dim=1)
    assert routing(bad, ids=ids) == ["only rows with an empty slot (topk_ids -1)"]


def places(ids):
    """Each slot's place among its expert's, counted one by one."""
    seen: dict[int, int] = {}
    found = []
    for row in ids.tolist():
        found.append([seen.get(e, 0) for e in row])
        for e in row:
            seen[e] = seen.get(e, 0) + 1
    return torch.tensor(found), seen


def test_places_within_an_expert_when_all_tokens_are_known():
    ids = torch.stack([torch.randperm(8, generator=GENERATOR)[:1] for _ in range(150)]).int()
    place, counts = places(ids)
    count = torch.tensor([[counts[e] for e in row] for row in ids.tolist()])
    beyond = (place >= 16).any(dim=1)
    assert routing(beyond, ids=ids, whole=True) == ["only rows beyond the first 16 of an expert"]
    assert routing(beyond, ids=ids) == []
    wide = torch.stack([torch.randperm(4, generator=GENERATOR)[:1] for _ in range(150)]).int()
    place, counts = places(wide)
    count = torch.tensor([[counts[e] for e in row] for row in wide.tolist()])
    tail = ((place >= count // 32 * 32) & (count % 32 > 0)).any(dim=1)
    said = routing(tail, ids=wide, whole=True)
    assert said == ["only rows in the last, partly filled block of 32 of an expert"]


def test_two_rows_are_no_pattern_though_some_expert_had_just_them():
    """With 8 experts to choose from, chance finds one that two of 12 rows share."""
    ids = torch.tensor([[0], [0], *[[e] for e in (1, 2, 3, 4, 5, 6, 7, 1, 2, 3)]]).int()
    bad = mask(12, [0, 1])
    assert routing(bad, ids=ids) == []
    more = torch.cat([ids, ids[2:], ids[2:]])
    expected = ["all wrong rows were routed to expert 0"]
    assert routing(mask(32, [0, 1]), ids=more) == expected


def test_no_pattern_of_routing_where_none_is():
    generator = torch.Generator().manual_seed(7)
    for _ in range(20):
        bad = torch.rand(40, generator=generator) < 0.3
        assert routing(bad, EP4, whole=True) == []
    assert routing(torch.ones(40, dtype=torch.bool), EP2) == []
    assert routing(torch.zeros(40, dtype=torch.bool), EP2) == []


def test_shares_count_rows_of_each_expert():
    ids = torch.tensor([[0, 3], [3, -1], [5, 0]], dtype=torch.int32)
    bad = torch.tensor([True, False, False])
    assert routing_patterns.shares(bad, ids, 8) == {"0": (1, 2), "3": (1, 2), "5": (0, 1)}


def test_wrong_elements_are_the_planted_ones():
    call, _ = call_of()
    out = call.output.out.clone()
    assert not find_mismatch(out, call.answer).rows.any()
    out[7, 100:200] *= -1
    out[9, 3] = float("nan")
    wrong = find_mismatch(out, call.answer)
    assert wrong.rows.nonzero().flatten().tolist() == [7, 9]
    assert wrong.elements[9].nonzero().flatten().tolist() == [3]
    planted = wrong.elements[7].nonzero().flatten().tolist()
    assert set(planted) <= set(range(100, 200))
    assert len(planted) > 90
    assert CASE.m == len(out)


def test_an_error_spread_over_a_row_has_elements_too():
    call, _ = call_of()
    shift = 2.5 * call.answer.variance.sqrt()[:, None] / CASE.k**0.5
    wrong = find_mismatch(call.answer.out + shift, call.answer)
    assert wrong.rows.all()
    assert wrong.elements.any(dim=1).all()
