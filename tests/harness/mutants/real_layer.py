"""The real stack with a mistake made in its weights or its routing, to compare with."""

from __future__ import annotations

import dataclasses

import torch

from harness.fixtures.layer_under_test import make_subject
from harness.fixtures.rank_context import Caches
from harness.mutants import named
from moe.types import Routing
from tests.harness.mutants.samples import ALONE, apart, scene

SAME = 1e-3  # sums in another order, and now and then a code at a tie


def real(one, change_weights=None, change_routing=None):
    """The rows of the real layer on one rank, with its weights or its routing changed."""
    subject, here = make_subject(one, dataclasses.replace(ALONE, caches=Caches())), scene(one)
    kernel = subject.layer.kernel
    if change_weights is not None:
        kernel.experts.prepare_weights(change_weights(kernel.experts.weights))
    ids, weights = here.topk_ids, here.topk_weights
    if change_routing is not None:
        ids, weights = change_routing(ids, weights)
    with torch.inference_mode():
        routed = kernel.apply(here.x, Routing(topk_ids=ids, topk_weights=weights))
    assert not subject.layer.shared
    return routed.float(), here


def scaled(which, change):
    def weights(w):
        return w.replace(**{which: change(getattr(w, which))})

    return weights


def assert_foretold(name, point, *, least=0.02, **changes):
    """The mistake's output is the real layer's with the change, and not the right one.

    least: how far it is from the right one.
    """
    out, here = real(point, **changes)
    foretold = named(name).compute(here)
    assert apart(out[: len(foretold)], foretold) < 0.004  # one rounding to bf16, a code at a tie
    assert apart(out, here.answer.out) > least
