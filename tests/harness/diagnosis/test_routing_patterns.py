"""What the wrong rows' routing has in common, and nothing that chance may have drawn."""

from __future__ import annotations

import torch

from harness.diagnosis import routing_patterns
from moe.layout import Layout
from moe.spec import LayerSpec
from tests.harness.diagnosis.masks import mask, texts

EP2 = Layout(dp_size=2, use_ep=True)
EP4 = Layout(dp_size=4, use_ep=True)
GENERATOR = torch.Generator().manual_seed(1)
IDS = torch.stack([torch.randperm(8, generator=GENERATOR)[:2] for _ in range(40)]).int()


def routing(bad, layout=Layout(), rank=0, ids=IDS, whole=False):  # noqa: B008  # frozen
    sizes = {"m": 1, "hidden": 8, "intermediate": 8, "num_experts": 8, "top_k": 2}
    layer_spec = LayerSpec(**sizes, layout=layout)
    return texts(routing_patterns.of_routing(bad, ids, layer_spec, rank, all_tokens=whole))


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


def test_rows_without_any_expert_make_no_pattern_of_the_others():
    ids = IDS.clone()
    ids[:, 0] = 4  # as a fused shared expert, which all rows have
    ids[::2] = -1
    assert routing((ids >= 0).any(dim=1), ids=ids) == []


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
    generator = torch.Generator().manual_seed(2)
    ids = torch.stack([torch.randperm(8, generator=generator)[:1] for _ in range(150)]).int()
    place, counts = places(ids)
    count = torch.tensor([[counts[e] for e in row] for row in ids.tolist()])
    beyond = (place >= 16).any(dim=1)
    assert routing(beyond, ids=ids, whole=True) == ["only rows beyond the first 16 of an expert"]
    assert routing(beyond, ids=ids) == []
    wide = torch.stack([torch.randperm(4, generator=generator)[:1] for _ in range(150)]).int()
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
