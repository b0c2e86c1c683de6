"""A line is one message, and comes back as what was sent."""

from __future__ import annotations

import pytest

from harness.engine.messages import KINDS, Probed, encode, message_of


def test_a_message_is_one_line_that_says_its_kind():
    line = encode(Probed(unfit="two\nlines"))
    assert line.count(b"\n") == 1
    assert message_of(line, KINDS) == Probed(unfit="two\nlines")


def test_a_line_that_is_no_message_is_refused():
    with pytest.raises(ValueError, match="unknown message"):
        message_of(b'{"kind": "Nonsense"}', KINDS)
