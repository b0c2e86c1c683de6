"""Stages of the projections: a wrong one is named first, and ranks exchange what they recorded."""

from __future__ import annotations

import dataclasses

import pytest

from harness.checks import stages
from harness.fixtures.rank_context import Caches
from moe.intermediates import Kept
from moe.latent import LatentProjections
from tests.harness.checks.observed import observation, with_call
from tests.harness.execute_ranks import context

pytestmark = pytest.mark.usefixtures("one_thread")


def departing(seen):
    return [f.stage for f in stages.check(seen.subject, seen.calls[1], context())]


def changed(seen, name, change):
    """The same, had a stage been recorded otherwise."""
    call = seen.calls[1]
    kept = Kept(value=change(call.stages[name].value))
    return with_call(seen, 1, stages={**call.stages, name: kept})


def moved(t):
    """The same, but for one element of the first row."""
    other = t.clone()
    other[0, 3] += 0.5
    return other


def test_right_projections_have_no_finding_and_a_wrong_one_is_named():
    for quant in ("none", "fp8_tensor_dynamic"):
        seen = observation(latent=48, quant=quant, padding="middle", shared_experts=1)
        assert departing(seen) == []
        assert departing(changed(seen, "latent", moved))[0] == "latent"
        assert departing(changed(seen, "restored", moved))[0] == "restored"
        assert "out" in departing(changed(seen, "restored", lambda t: -t))


def test_a_stage_of_another_shape_is_an_error():
    seen = observation(latent=48)
    with pytest.raises(ValueError, match="stage latent was handed out as"):
        departing(changed(seen, "latent", lambda t: t[:, :-1]))


def test_the_projection_that_is_wrong_is_the_first_wrong_stage(monkeypatch):
    real = LatentProjections.leave
    monkeypatch.setattr(LatentProjections, "leave", lambda self, y: real(self, y) * 1.5)
    fresh = dataclasses.replace(context(), caches=Caches())
    seen = observation.__wrapped__(latent=40)
    assert [f.stage for f in stages.check(seen.subject, seen.calls[1], fresh)] == ["restored"]
