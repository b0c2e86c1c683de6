"""Scores become a choice and weights: by bias and groups, normalised and scaled."""

import torch

from moe.expert_choice import choose, weighed, without_other_groups

SCORES = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]])
BIAS = torch.tensor([1.0, 0.0, 0.0, 0.0])


def chosen(routing):
    return [sorted(row) for row in routing.topk_ids.tolist()]


def test_a_bias_decides_and_does_not_weigh():
    routing = choose(SCORES, 2, renormalize=False, bias=BIAS)
    assert chosen(routing) == [[0, 3], [0, 1]]
    assert torch.equal(routing.topk_weights, SCORES.gather(1, routing.topk_ids.long()))
    assert routing.topk_ids.dtype == torch.int32


def test_renormalisation_comes_before_the_scale():
    routing = choose(SCORES, 2, renormalize=True, bias=BIAS, scale=2.5)
    torch.testing.assert_close(routing.topk_weights.sum(dim=1), torch.tensor([2.5, 2.5]))
    plain = weighed(SCORES[:, :2], torch.tensor([[0, 1], [0, 1]]), renormalize=False, scale=2.0)
    assert torch.equal(plain.topk_weights, SCORES[:, :2] * 2)


def test_a_group_is_as_good_as_its_two_best_experts():
    keys = torch.tensor([[0.9, 0.0, 0.0, 0.5, 0.5, 0.0, 0.3, 0.2, 0.1]])
    kept = without_other_groups(keys, 3, 1)
    assert kept.isfinite().tolist() == [[False] * 3 + [True] * 3 + [False] * 3]
    alone = without_other_groups(keys[:, :3], 3, 1)
    assert alone.isfinite().tolist() == [[True, False, False]]


def test_negative_keys_of_kept_groups_win_over_other_groups():
    keys = torch.tensor([[-1.0, -2.0, -3.0, -1.5, -1.6, -9.0]])
    routing = choose(keys, 2, renormalize=False, groups=2, chosen_groups=1)
    assert chosen(routing) == [[0, 1]]


def test_a_nan_shows_in_the_weights():
    scores = torch.tensor([[0.1, torch.nan, 0.3, 0.4]])
    routing = choose(scores, 2, renormalize=False)
    assert 1 in routing.topk_ids
    assert bool(routing.topk_weights.isnan().any())
