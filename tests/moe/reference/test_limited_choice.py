"""Choices by groups: the best one, and all those that ties allow."""

import dataclasses
import itertools

import pytest
import torch

from moe.reference.limited_choice import Keys


def keys(values, groups, chosen_groups, noise=0.0):
    wide = torch.tensor([values], dtype=torch.float64)
    return Keys(
        values=wide, noise=torch.full((1, 1), noise), groups=groups, chosen_groups=chosen_groups
    )


def valid(made, top_k):
    """All valid sets of experts."""
    experts = range(made.values.shape[1])
    for ids in itertools.combinations(experts, top_k):
        selected = torch.zeros_like(made.values, dtype=torch.bool)
        selected[0, list(ids)] = True
        if bool(made.is_valid(selected)):
            yield set(ids)


@pytest.mark.parametrize(
    ("values", "groups", "kept", "ids"),
    [
        ([9.0, 0, 0, 0, 6, 5], 2, 1, [4, 5]),  # 6 + 5 > 9 + 0
        ([9.0, 0, 6, 5, 1, 1], 3, 2, [0, 2]),
        ([-1.0, -5, -2, -3, -9, -9], 3, 2, [0, 2]),
        ([1.0, 2, 3, 4, 5, 6], 6, 2, [5, 4]),  # groups of one
        ([4.0, 1, 3, 2], 1, 1, [0, 2]),
    ],
)
def test_without_ties_one_choice_is_valid(values, groups, kept, ids):
    made = keys(values, groups, kept)
    assert made.choose(2).tolist() == [ids]
    assert list(valid(made, 2)) == [set(ids)]
    assert float(made.gap(2)) > 0


def brute_force(made, top_k):
    """All sets of experts that some order of equal groups and experts gives."""
    groups, size = made.groups, made.values.shape[1] // made.groups
    values, score = made.values[0].tolist(), made.of_groups[0].tolist()
    last = sorted(score, reverse=True)[made.chosen_groups - 1]
    surely = {g for g in range(groups) if score[g] > last}
    tied = [g for g in range(groups) if score[g] == last]
    for more in itertools.combinations(tied, made.chosen_groups - len(surely)):
        kept = surely | set(more)
        allowed = [e for e in range(len(values)) if e // size in kept]
        worst = sorted((values[e] for e in allowed), reverse=True)[top_k - 1]
        must = {e for e in allowed if values[e] > worst}
        equal = [e for e in allowed if values[e] == worst]
        for rest in itertools.combinations(equal, top_k - len(must)):
            yield must | set(rest)


@pytest.mark.parametrize("seed", range(40))
def test_with_ties_exactly_those_choices_are_valid_that_some_order_gives(seed):
    torch.manual_seed(seed)
    values = torch.randint(0, 3, (8,)).double().tolist()
    for groups, kept, top_k in ((4, 2, 2), (4, 3, 3), (2, 1, 3), (4, 2, 4)):
        made = keys(values, groups, kept)
        wanted = {frozenset(ids) for ids in brute_force(made, top_k)}
        assert {frozenset(ids) for ids in valid(made, top_k)} == wanted
        assert frozenset(made.choose(top_k)[0].tolist()) in wanted


def test_the_gap_is_the_smaller_one_of_groups_and_of_experts():
    assert float(keys([9.0, 0, 6, 5, 1, 1], 3, 2).gap(2)) == 1.0  # 6 over 5
    assert float(keys([9.0, 0, 6, 5, 5.5, 5], 3, 1).gap(1)) == 0.5  # 11 over 10.5
    assert float(keys([9.0, 1], 1, 1).gap(2)) == torch.inf


def test_noise_allows_what_it_may_have_changed():
    assert list(valid(keys([1.0, 0, 0, 1.01], 1, 1, noise=0.02), 1)) == [{0}, {3}]
    assert list(valid(keys([1.0, 0, 0, 1.01], 2, 1, noise=0.02), 1)) == [{0}, {3}]
    assert list(valid(keys([1.0, 0, 0, 1.01], 2, 1), 1)) == [{3}]


def test_each_key_may_have_its_own_noise():
    """Expert 3 is surely better than 0; of 1 nobody knows."""
    values = torch.tensor([[1.0, 1.2, 0.0, 1.5]], dtype=torch.float64)
    noise = torch.tensor([[0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    made = Keys(values=values, noise=noise, groups=1, chosen_groups=1)
    assert list(valid(made, 1)) == [{1}, {3}]
    assert list(valid(made, 2)) == [{0, 3}, {1, 3}]


def test_groups_whose_rounded_sums_are_equal_may_each_be_kept():
    values = [1.0, 0.0, 1.001, 0.0]
    assert list(valid(keys(values, 2, 1), 1)) == [{2}]
    rounded = dataclasses.replace(keys(values, 2, 1), group_dtype="bf16")
    assert list(valid(rounded, 1)) == [{0}, {2}]
    apart = dataclasses.replace(keys([1.0, 0.0, 1.01, 0.0], 2, 1), group_dtype="bf16")
    assert list(valid(apart, 1)) == [{2}]
