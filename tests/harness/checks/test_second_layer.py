"""A member that keeps its weights for the process is right until there is a second layer."""

from __future__ import annotations

import pytest

from harness.checks.second_layer import is_cheap
from harness.record.result import Verdict
from moe.experts import EXPERTS
from moe.experts.torch_loop import TorchLoopExperts
from tests.harness.checks.claims import disclaim
from tests.harness.checks.rounding_members import HERE
from tests.harness.checks.stage_faults import case, nothing, run

pytestmark = pytest.mark.usefixtures("one_thread")

FEW = case(m=3, n=32, k=64, all2all="local")
REMEDY = "; keep weights and buffers in the layer, not in its class or module"


def kept_of_the_first_layer(patch) -> None:
    """What is converted once for a size is that of the first layer."""
    kept = {}

    def prepare(self, weights):
        self.weights = kept.setdefault(tuple(weights.w13.shape), weights)

    patch.setattr(TorchLoopExperts, "prepare_weights", prepare)


def kept_of_the_newest_layer(patch) -> None:
    """A call takes the weights of the layer that was made last."""
    newest, real = [], TorchLoopExperts.apply

    def apply(self, x, routing):
        self.weights = newest[-1]
        return real(self, x, routing)

    patch.setattr(TorchLoopExperts, "prepare_weights", lambda _, weights: newest.append(weights))
    patch.setattr(TorchLoopExperts, "apply", apply)


def test_weights_of_the_first_layer_are_found_in_the_second(monkeypatch) -> None:
    kept_of_the_first_layer(monkeypatch)
    (text,) = run(nothing, FEW.id).messages
    assert text.startswith("wrong only in a second layer of the same sizes, with other weights: ")
    assert text.endswith(REMEDY)


@pytest.mark.parametrize("claims", [True, False])
def test_weights_of_the_newest_layer_are_found_in_the_first(monkeypatch, claims) -> None:
    kept_of_the_newest_layer(monkeypatch)
    if not claims:
        disclaim(monkeypatch, EXPERTS, "torch_loop")
    (text,) = run(nothing, FEW.id).messages
    how = "not deterministic: " if claims else "3 of 3 rows wrong"
    assert text.startswith(f"another output since a second layer was made: {how}")
    assert text.endswith(REMEDY)


def test_the_second_layer_is_judged_under_the_roundings_that_explain_the_first() -> None:
    result = run(nothing, FEW.replace(n=128, k=128, experts=f"{HERE}:Float32").id)
    assert result.verdict is Verdict.PASSED
    assert 'gemm1="f32"' in result.assumed  # the first alternative rounds there


def test_a_layer_that_is_wrong_already_has_no_second(monkeypatch) -> None:
    real = TorchLoopExperts.apply
    monkeypatch.setattr(TorchLoopExperts, "apply", lambda *args: 2 * real(*args))
    assert not any(REMEDY in message for message in run(nothing, FEW.id).messages)


def test_only_cheap_cases_have_a_second_layer() -> None:
    assert is_cheap(FEW)
    large, full = FEW.replace(n=7168, k=7168), FEW.replace(m=5)
    ranks = FEW.replace(all2all="naive", dp_size=2)
    assert not any(map(is_cheap, (large, full, ranks, FEW.replace(call="small_tiles"))))
