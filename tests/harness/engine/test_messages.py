"""A line is one message, and comes back as what was sent."""

from __future__ import annotations

import pytest

from harness.engine.messages import Probed, decode, encode


def test_a_message_is_one_line_that_says_its_kind():
    line = encode(Probed(unfit="two\nlines"))
    assert line.count(b"\n") == 1
    assert decode(line) == Probed(unfit="two\nlines")


def test_a_line_that_is_no_message_is_refused():
    with pytest.raises(ValueError, match="unknown message"):
        decode(b'{"kind": "Nonsense"}')
