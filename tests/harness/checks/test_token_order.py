"""Which gathered row holds which token: rank order first, else by content, else unknown."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.checks import token_order
from harness.checks.stage_record import Handed, handed_out
from moe.intermediates import Kept
from tests.harness.checks.observed import observation

pytestmark = pytest.mark.usefixtures("one_thread")
ADDRESSED = ("ids", "weights", "input", "input_scale")
PLACES = torch.tensor([3, 0, 4, 1, 2])  # gathered row i holds token PLACES[i]
RANK_ORDER = list(range(5))


def handed(places: torch.Tensor, names: tuple[str, ...] = ADDRESSED, **fields) -> Handed:
    """The record of a call, had the all2all gathered its tokens in another order."""
    seen = observation(**fields)
    call = seen.calls[0]
    stages = {
        name: Kept(value=kept.value[places]) if name in names else kept
        for name, kept in call.stages.items()
    }
    return handed_out(seen.subject, dataclasses.replace(call, stages=stages), 0, exact=False)


def expected(record: Handed) -> token_order.Sent:
    selection = record.call.output.routing
    return token_order.sent(record, selection.topk_ids, selection.topk_weights)


def order_of(record: Handed) -> list[int] | None:
    at = token_order.order(record, expected(record))
    return None if at is None else at.tolist()


@pytest.mark.parametrize("quant", ["none", "int8_channel"])
def test_the_order_is_found_by_content(quant):
    assert order_of(handed(torch.arange(5), quant=quant)) == RANK_ORDER
    record = handed(PLACES, quant=quant)
    assert order_of(record) == PLACES.argsort().tolist()
    assert torch.equal(token_order.by_rows(record), PLACES.argsort())


def test_rows_in_another_order_than_their_routing_leave_rank_order():
    """One of both is in rank order, so the other one is wrong, not the order."""
    assert order_of(handed(PLACES, ("input", "input_scale"))) == RANK_ORDER
    assert order_of(handed(PLACES, ("ids", "weights"))) == RANK_ORDER


def test_without_one_of_the_tokens_the_order_is_unknown():
    record = handed(torch.tensor([3, 0, 4, 1, 1]))
    assert order_of(record) is None
    assert token_order.by_rows(record) is None


def test_a_row_more_is_padding_unless_it_has_an_expert():
    record = handed(torch.tensor([3, 0, 4, 1, 2, 2]))
    assert order_of(record) is None
    record.ids[5] = -1
    at = token_order.by_rows(record)
    assert at.tolist() == [1, 3, 4, 0, 2]


def test_padding_between_the_ranks_keeps_rank_order():
    """Whatever it holds: here a copy of a token with its experts."""
    record = handed(torch.tensor([0, 1, 1, 2, 3, 4]))
    record = dataclasses.replace(record, ranks=(0, 1), sizes=(2, 3))
    vars(record)["sent"] = observation().calls[0].tokens.x
    assert order_of(record) == [0, 1, 3, 4, 5]


def test_mismatched_rows_are_the_wrong_ones():
    record = handed(torch.tensor([0, 2, 1, 3, 4]))
    rows = expected(record).rows
    assert token_order.mismatched_rows(record, rows, torch.arange(5)).tolist() == [
        *(False, True, True, False, False)
    ]


def test_padding_rows_with_experts_leave_rank_order_though_one_scale_is_wrong():
    """They count in the scale of all rows, so that no row is known by its codes."""
    copied = ("ids", "weights", "input")
    record = handed(torch.arange(5), copied, quant="fp8_tensor_dynamic", padding="end")
    sent = expected(record)
    is_padding = (sent.ids < 0).all(dim=1)
    assert 0 < int(is_padding.sum()) < 4  # of five
    input_codes = record.stages["input"].value
    assert order_of(record) == RANK_ORDER
    input_codes.copy_((input_codes.float() / 7).to(input_codes.dtype))
    assert order_of(record) == RANK_ORDER  # their routing is right
    record.ids[is_padding] = 1
    assert order_of(record) == RANK_ORDER
    record.ids[(~is_padding).nonzero()[0]] += 1
    assert order_of(record) is None
