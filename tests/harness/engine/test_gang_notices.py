"""An owner waits until a gang has something to say, or for the first deadline."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest

from harness.engine.gang_notices import watch


class Pipe:
    """A channel that has something to read once a byte is written."""

    def __init__(self, *, closed=False):
        self.reader, self.writer = os.pipe()
        self.closed = closed

    def fileno(self):
        return self.reader


@pytest.fixture
def pipes():
    made = [Pipe(), Pipe(closed=True)]
    yield made
    for pipe in made:
        os.close(pipe.reader)
        os.close(pipe.writer)


def gang(*channels, deadline=None):
    return SimpleNamespace(link=SimpleNamespace(channels=channels), deadline=deadline)


def test_what_arrives_ends_the_wait(pipes):
    open_pipe, closed_pipe = pipes
    os.write(closed_pipe.writer, b"x")  # nobody reads a closed channel
    os.write(open_pipe.writer, b"x")
    watch([gang(open_pipe, closed_pipe), gang(open_pipe)])  # without a deadline it would not end


def test_the_first_deadline_ends_the_wait(pipes):
    first = time.monotonic() + 0.05
    gangs = [gang(*pipes, deadline=first + 1000), gang(deadline=first), gang()]
    watch(gangs, until=first + 500)
    assert time.monotonic() >= first - 0.002  # a selector waits in milliseconds
    watch(gangs, until=first - 1)  # over already
