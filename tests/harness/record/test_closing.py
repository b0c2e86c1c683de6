"""A `with` statement closes what it has opened, also after an exception."""

import pytest

from harness.record.closing import ClosedByWith


class Door(ClosedByWith):
    closed = 0

    def close(self):
        self.closed += 1


def test_a_with_statement_gives_the_object_and_closes_it_once():
    door = Door()
    with door as opened:
        assert opened is door
        assert door.closed == 0
    assert door.closed == 1
    with pytest.raises(ValueError, match="inside"), door:
        raise ValueError("inside")
    assert door.closed == 2
