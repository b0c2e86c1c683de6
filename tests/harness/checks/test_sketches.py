"""Sketches of a rank's first rows: equal rows agree, other rows do not, and each has its slack."""

from __future__ import annotations

import pytest
import torch

from harness.checks.output import row_tolerance
from harness.checks.sketches import SKETCHED_ROWS, sketches
from harness.record.cross_case import WIDTH, Sketch
from tests.harness.checks.observed import observation, with_call, with_output

pytestmark = pytest.mark.usefixtures("one_thread")


def of_first_call(seen):
    return [Sketch.from_json(data) for data in sketches(seen.subject, seen.calls[0])]


def test_the_first_rows_are_compressed_to_their_length():
    seen = observation(k=2048)
    made, call = of_first_call(seen), seen.calls[0]
    assert [sketch.token for sketch in made] == call.tokens.index[:SKETCHED_ROWS].tolist()
    for sketch, row in zip(made, call.output.out.float(), strict=False):
        assert len(sketch.values) == WIDTH
        length = float(torch.tensor(sketch.values).norm())
        assert 0.5 < length / float(row.norm()) < 2  # WIDTH signs: within six deviations


def test_a_row_that_differs_has_another_sketch_and_no_other_has():
    seen = observation()
    out = seen.calls[0].output.out.clone()
    out[1, 3] += 1
    before, after = of_first_call(seen), of_first_call(with_output(seen, 0, out=out))
    assert before[0] == after[0]
    moved = torch.tensor(before[1].values) - torch.tensor(after[1].values)
    assert float(moved.norm()) == pytest.approx(
        abs(float(out[1, 3]) - float(seen.calls[0].output.out[1, 3])), rel=1e-3
    )


@pytest.mark.parametrize("quant", ["none", "int8_channel"])
def test_the_slack_covers_the_tolerance_and_the_scheme(quant):
    seen = observation(quant=quant)
    call = seen.calls[0]
    routing, rows = call.output.routing, slice(0, SKETCHED_ROWS)
    ideal = seen.subject.ideal(call.tokens.x, routing.topk_ids, routing.topk_weights).out
    scheme = (call.answer.out - ideal).norm(dim=1)[rows]
    least = row_tolerance(call.answer)[rows] + scheme
    for sketch, floor, size in zip(
        of_first_call(seen), least, call.answer.out.norm(dim=1), strict=False
    ):
        assert float(floor) < sketch.slack < float(floor + size * 1e-5)


def test_a_rank_without_tokens_has_none():
    seen = observation()
    tokens = seen.calls[0].tokens
    none = type(tokens)(x=tokens.x[:0], logits=tokens.logits[:0], index=tokens.index[:0])
    assert of_first_call(with_call(seen, 0, tokens=none)) == []


def test_the_slack_covers_the_roundings_of_a_hidden_routing():
    fields = {"experts": "own", "m": 5, "n": 128, "k": 128, "all2all": "allgather_reducescatter"}
    layer = "tests.harness.rounding_layers:{}"
    narrow, plain = (
        observation(**fields, layer=layer.format(name)) for name in ("RoutesInBf16", "SaysFloat32")
    )
    moved = narrow.calls[0].answer.out - plain.calls[0].answer.out
    for sketch, distance in zip(of_first_call(narrow), moved.norm(dim=1), strict=False):
        tolerance = row_tolerance(narrow.calls[0].answer)[sketch.token]
        assert sketch.slack > float(tolerance + distance)
        assert float(distance) > float(tolerance) / 8
