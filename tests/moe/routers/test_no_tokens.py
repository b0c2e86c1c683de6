"""Released functions that take no empty call are not called for a rank without tokens."""

import pytest
import torch

from moe.routers import ROUTERS
from tests.moe.experts.unrun_backends import install

OPTIONS = {"renormalize": True, "groups": 4, "chosen_groups": 2, "scale": 2.5}


def never(*_arguments, **_options):
    raise AssertionError("called without tokens")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vllm_grouped_softmax", {"renormalize": True}),
        ("vllm_grouped_sigmoid", {"bias": torch.zeros(12), **OPTIONS}),
        ("vllm_cpu_grouped_sigmoid", {"bias": torch.zeros(12), **OPTIONS}),
        ("sglang_torch_sigmoid", {"bias": torch.zeros(12), **OPTIONS}),
        ("sglang_torch_sigmoid", {"bias": torch.zeros(12), "renormalize": True}),
        ("sglang_torch_softplus_sqrt", {"bias": torch.zeros(12), "renormalize": False}),
    ],
)
def test_a_rank_without_tokens_gets_an_empty_choice(monkeypatch, name, options):
    functions = {"grouped_topk": never, "cpu_grouped_topk": never}
    install(monkeypatch, moe__vllm_functions=functions)
    functions = {"biased_topk": never, "biased_grouped_topk": never}
    install(monkeypatch, moe__sglang_functions=functions)
    logits = torch.empty((0, 12), dtype=torch.bfloat16)
    got = ROUTERS.load(name)()(logits, 3, **options)
    assert (got.topk_ids.shape, got.topk_weights.shape) == ((0, 3), (0, 3))
    assert (got.topk_ids.dtype, got.topk_weights.dtype) == (torch.int32, torch.float32)
    with pytest.raises(AssertionError, match="called without tokens"):
        ROUTERS.load(name)()(torch.zeros(1, 12), 3, **options)
