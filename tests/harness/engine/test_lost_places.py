"""Places of gangs that disappear during a run, as nodes of a cluster do; the gangs are real."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.engine.run_options import RunOptions
from harness.engine.scheduler import run
from harness.engine.slots import Slots
from harness.errors import InfrastructureError
from tests.harness.engine.engine_faults import case
from tests.harness.engine.engine_tools import EXECUTOR, plan, results, shared_pool


class Places(Slots):
    """Slots whose shares are numbered; those with a number in `lost` are lost."""

    def __init__(self, lost):
        super().__init__(1, 0)
        self.lost, self.taken, self.returned = lost, 0, []

    def take(self, need, avoid=frozenset()):
        share = super().take(need, avoid)
        self.taken += share is not None
        return share and replace(share, place=self.taken)

    def give_back(self, share):
        super().give_back(share)
        self.returned.append(share.place)

    def has_lost(self, share):
        return share.place in self.lost


class Cluster:
    """The pool of all tests, which starts no gang in the places `dead`."""

    def __init__(self, lost, dead):
        self.places, self.dead = Places(lost), dead

    def __getattr__(self, name):
        return getattr(shared_pool(), name)

    def slots(self, _per_device, _devices):
        return self.places

    def start(self, spec, folder):
        if spec.place in self.dead:
            raise InfrastructureError(f"place {spec.place} is gone")
        return shared_pool().start(spec, folder)


def events_of(cluster, folder, executor=EXECUTOR):
    cases = plan(case("os_exit"), case("none", m=9))
    options = RunOptions(log_dir=folder / "logs", executor=executor, rank_options={})
    return list(run(cases, options, cluster))


def test_what_is_left_of_a_job_runs_in_another_place(tmp_path):
    """The first place is lost with its gang, the second before a gang starts there."""
    cluster = Cluster(lost={1, 2}, dead={2})
    ended = results(events_of(cluster, tmp_path))
    assert [str(result.verdict) for result in ended.values()] == ["crashed", "passed"]
    assert cluster.places.returned == [1, 2, 3]


def test_a_start_that_fails_in_a_place_that_is_there_ends_the_run(tmp_path):
    with pytest.raises(InfrastructureError, match="place 2 is gone"):
        events_of(Cluster(lost={1}, dead={2}), tmp_path)


def test_a_job_that_takes_two_places_down_before_it_starts_is_infra(tmp_path, monkeypatch):
    (tmp_path / "places_broken.py").write_text("raise RuntimeError('broken at import')\n")
    monkeypatch.syspath_prepend(tmp_path)
    cluster = Cluster(lost=range(100), dead=())
    ended = results(events_of(cluster, tmp_path, "places_broken:run_case"))
    assert [str(result.verdict) for result in ended.values()] == ["infra", "infra"]
    assert cluster.places.returned == [1, 2]
