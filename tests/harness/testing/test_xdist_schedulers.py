"""Under each `--dist` every case gets one outcome, a killed worker costs the test that it ran."""

from __future__ import annotations

from collections import Counter

import pytest

from harness.testing.xdist_schedulers import MENDED, mended
from tests.harness.testing import pytest_runs
from tests.harness.testing.pytest_runs import CASES, TWO

# Once, before a case of two ranks is reported: the ranks are then still alive.
KILLS = f"""
import os
from pathlib import Path

def pytest_runtest_makereport(item, call):
    if (item.nodeid, call.when) == ({TWO!r}, "call") and not Path("killed").exists():
        Path("killed").touch()
        os.kill(os.getpid(), 9)
"""
PLAIN = "def test_plain(): pass\n"


@pytest.mark.parametrize("dist", ["load", "loadscope", "loadfile", "loadgroup", "worksteal"])
def test_a_killed_worker_costs_the_item_that_it_ran(tmp_path, dist):
    files = {"conftest.py": KILLS, "test_plain.py": PLAIN}
    done = pytest_runs.run(tmp_path, "test_plain.py", "-n", "2", "--dist", dist, files=files)
    assert Counter(dict(done.outcomes).values()) == {"PASSED": len(CASES), "FAILED": 1}, done.text
    assert len(done.outcomes) == len(CASES) + 1  # no test has two
    assert dict(done.outcomes)[TWO] == "FAILED"
    assert f"crashed while running '{TWO}'" in done.text
    assert dict(done.outcomes)["test_plain.py::test_plain"] == "PASSED"
    assert (done.code, done.left) == (1, [])


KILLS_EACH_TIME = """
import os
import pytest

@pytest.mark.parametrize("number", range(4))
def test_it(number):
    if number in (1, 3):
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("dist", sorted(MENDED))
def test_a_test_that_kills_its_worker_each_time_runs_once(tmp_path, dist):
    """The last test of its group is one of them: the next worker has nothing left to wait for."""
    files = {"test_it.py": KILLS_EACH_TIME}
    arguments = ("test_it.py", "--deselect", "m.yaml", "-n", "2", "--dist", dist)
    done = pytest_runs.run(tmp_path, *arguments, files=files)
    ends = {f"test_it.py::test_it[{i}]": "FAILED" if i in (1, 3) else "PASSED" for i in range(4)}
    assert sorted(done.outcomes) == sorted(ends.items()), done.text
    assert (done.code, done.left) == (1, [])


def test_what_has_neither_fault_stays_as_it_is():
    class Config:
        @staticmethod
        def getvalue(name):
            return {"dist": "worksteal"}[name]

    assert mended(Config(), None) is None
