"""What a gang keeps: made once, bounded in bytes, the oldest unused first, groups for ever."""

import dataclasses

import pytest
import torch

from harness import cache
from harness.cache import cached, size_of
from harness.context import RankContext
from moe.types import ExpertWeights


@pytest.fixture
def context(monkeypatch):
    monkeypatch.setitem(cache.BUDGET_BYTES, "cpu", 100)
    return RankContext(rank=0, world_size=1, device=torch.device("cpu"), transport="gloo")


def blob(size):
    return torch.zeros(size, dtype=torch.uint8)


def fill(context, **sizes):
    for key, size in sizes.items():
        cached(context, key, lambda size=size: blob(size))


def test_a_value_is_made_once_for_its_key(context):
    made = []

    def make():
        made.append(1)
        return blob(10)

    assert cached(context, ("a", 1), make) is cached(context, ("a", 1), make)
    cached(context, ("a", 2), make)
    assert len(made) == 2


def test_none_is_a_value_too(context):
    made = []
    for _ in range(2):
        assert cached(context, "nothing", lambda: made.append(1)) is None
    assert len(made) == 1


def test_the_least_recently_used_goes_first(context):
    fill(context, a=40, b=40)
    fill(context, a=40)  # used again: now b is the oldest
    fill(context, c=40)
    assert list(context.caches) == ["a", "c"]


def test_the_budget_is_kept_to_the_byte(context):
    fill(context, a=50, b=50)
    assert list(context.caches) == ["a", "b"]
    fill(context, c=1)
    assert list(context.caches) == ["b", "c"]
    fill(context, d=99)
    assert list(context.caches) == ["c", "d"]


def test_what_is_larger_than_the_budget_is_used_all_the_same(context):
    fill(context, a=10)
    assert cached(context, "big", lambda: blob(1000)).numel() == 1000
    assert list(context.caches) == ["big"]
    fill(context, b=10)
    assert list(context.caches) == ["b"]


def test_groups_are_never_dropped(context):
    """Torch cannot make a process group again in place."""
    cached(context, "groups", object, pinned=True)
    cached(context, "pinned blob", lambda: blob(30), pinned=True)
    fill(context, a=60, b=60)
    assert list(context.caches) == ["groups", "pinned blob", "b"]


def test_an_exception_leaves_nothing_behind(context):
    def fail():
        raise KeyError("no")

    with pytest.raises(KeyError):
        cached(context, "a", fail)
    assert context.caches == {}


def test_a_value_can_be_made_from_other_kept_values(context):
    def outer():
        return cached(context, "inner", lambda: blob(60)) + 1

    assert cached(context, "outer", outer).sum() == 60
    assert "outer" in context.caches
    total = sum(kept.size for kept in context.caches.values())
    assert total <= 100


@dataclasses.dataclass
class Bundle:
    name: str
    part: torch.Tensor | None


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (torch.zeros(3, 4), 48),
        (torch.zeros(8, dtype=torch.float8_e4m3fn), 8),
        ((blob(1), [blob(2), {"a": blob(4)}]), 7),
        (Bundle("x", blob(9)), 9),
        (Bundle("x", None), 0),
        (ExpertWeights(w13=blob(5), w2=blob(6), w2_scale=torch.zeros(2)), 19),
        ("text", 0),
        (None, 0),
    ],
)
def test_sizes_are_those_of_all_tensors_inside(value, size):
    assert size_of(value) == size
