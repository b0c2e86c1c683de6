"""Messages to and from a host's agent: they come back as they were sent, and nothing else does."""

import pytest

from harness.engine.host_messages import KINDS, FetchFiles, HostInfo
from harness.engine.messages import encode, message_of


@pytest.mark.parametrize("message", [FetchFiles(gang=3, sizes={"a": 1}), HostInfo(code="x")])
def test_a_message_comes_back(message):
    assert message_of(encode(message), KINDS) == message


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[1]",
        b"{}",
        b'{"kind": "RunTask", "task": "x"}',  # of another channel
        b'{"kind": "Listen"}',
        b'{"kind": "Listen", "gang": 1, "more": 2}',
    ],
)
def test_anything_else_is_a_value_error(line):
    with pytest.raises(ValueError, match=r"."):
        message_of(line, KINDS)
