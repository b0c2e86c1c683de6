"""The members that ran are those that the case names."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from harness.checks import members
from harness.record.result import Verdict
from moe.layers import COMPOSED
from tests.harness.checks.observed import observation

pytestmark = pytest.mark.usefixtures("one_thread")


def with_members(layer: str = COMPOSED, case=(), **changes):
    seen = observation()
    actual = SimpleNamespace(members=seen.subject.layer.members | changes)
    point = SimpleNamespace(**{**vars(seen.subject.case), **dict(case), "layer": layer})
    subject = dataclasses.replace(seen.subject, case=point, layer=actual)
    return dataclasses.replace(seen, subject=subject)


def test_the_requested_classes_are_no_finding():
    assert members.findings(observation()) == members.findings(with_members()) == ()


@pytest.mark.parametrize(
    ("family", "text"),
    [
        ("experts", "experts: asked for torch_loop (TorchLoopExperts), and Another ran"),
        ("all2all", "all2all: asked for local (Local), and Another ran"),
    ],
)
def test_another_class_leads_the_report(family, text):
    (finding,) = members.findings(with_members(**{family: "Another"}))
    assert (finding.text, finding.leads, finding.verdict) == (text, True, Verdict.FAILED)


def test_a_backend_that_routes_by_itself_stands_for_the_router():
    named = {"experts": "TorchMonolithicExperts", "router": "TorchMonolithicExperts"}
    assert members.findings(with_members(**named, case={"experts": "torch_monolithic"})) == ()
    named["router"] = "SoftmaxTopK"
    (finding,) = members.findings(with_members(**named, case={"experts": "torch_monolithic"}))
    assert finding.text == (
        "router: asked for softmax (TorchMonolithicExperts), and SoftmaxTopK ran"
    )


def test_a_layer_from_outside_has_no_members_to_compare():
    assert members.findings(with_members("a_package:Layer", experts="Another")) == ()
