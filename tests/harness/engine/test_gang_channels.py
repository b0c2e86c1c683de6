"""The link to a gang's processes: what they sent is kept, and a dead one stops nobody."""

from __future__ import annotations

import pytest

from harness.engine.channel import Channel
from harness.engine.forkserver_pool import Forkserver
from harness.engine.gang_channels import Link
from harness.engine.gang_spec import GangSpec
from harness.engine.messages import (
    Done,
    Exited,
    Failed,
    Forked,
    Probe,
    Probed,
    Ready,
    Status,
    Swept,
)

SPEC = GangSpec(world_size=2, device="cpu", transport="gloo", options={})


class PairedPool:
    """A pool that starts no process: the tests speak for the forkserver, the holder and ranks."""

    def __init__(self, folder):
        self.folder = folder
        self.killed = []
        self.asked = []
        local, self.far_server = Channel.pair()
        self.server = Forkserver(channel=local, log=folder / "server.log", environment={})

    def new_folder(self):
        path = self.folder / "gang1"
        path.mkdir()
        return path

    def start(self, spec, folder):
        self.server.gangs += 1
        (holder, self.holder), *pairs = [Channel.pair() for _ in range(spec.world_size + 1)]
        self.ranks = [remote for _, remote in pairs]
        return self.server, holder, [local for local, _ in pairs]

    def kill(self, pid):
        self.killed.append(pid)

    def fetch(self, folder):
        self.asked.append(("fetch", folder))

    def cleared(self, folder):
        self.asked.append(("cleared", folder))


@pytest.fixture
def pool(tmp_path):
    pool = PairedPool(tmp_path)
    yield pool
    for channel in (pool.far_server, pool.server.channel, pool.holder, *pool.ranks):
        channel.close()


@pytest.fixture
def link(pool):
    link = Link(pool, SPEC, ("call", b"content"))
    yield link
    for channel in link.channels:
        channel.close()


def test_what_the_processes_sent_is_kept(pool, link):
    pool.holder.send(Forked(holder=7, ranks=[8, 9]))
    pool.holder.send(Exited(rank=1, status=-9))
    pool.holder.send(Swept(orphans=1, survivors=[], memory_wait=0.5))
    pool.ranks[0].send(Ready(rank=0))
    pool.ranks[0].send(Probed(unfit="", changed=False))
    pool.ranks[1].send(Status(text="in the layer"))
    pool.ranks[1].send(Probed(unfit="leaks", changed=True))
    link.read()
    assert (link.holder_pid, link.rank_pids, link.exits) == (7, [8, 9], {1: -9})
    assert link.swept.orphans == 1
    assert (link.ready, link.probed, link.changed) == ({0}, {0: "", 1: "leaks"}, True)
    assert link.replies.last_status[1][0] == "in the layer"
    assert (link.holder_gone, link.server_gone) == (False, False)


def test_a_gang_is_ready_once_its_holder_has_told_its_processes_too(pool, link):
    for rank, channel in enumerate(pool.ranks):
        channel.send(Ready(rank=rank))
    link.read()
    assert (link.ready, link.all_ready) == ({0, 1}, False)
    pool.holder.send(Forked(holder=7, ranks=[8, 9]))
    link.read()
    assert (link.rank_pids, link.all_ready) == ([8, 9], True)


@pytest.mark.parametrize(("pids", "ranks"), [([], ()), ([9], (1,)), ([9, 10], (0, 1))])
def test_ranks_that_cannot_be_killed_are_all_if_one_of_their_children_cannot(
    pool, link, pids, ranks
):
    assert link.unkillable_ranks() == ()
    pool.holder.send(Forked(holder=7, ranks=[8, 9]))
    pool.holder.send(Swept(orphans=0, survivors=pids, memory_wait=0.0))
    link.read()
    assert link.unkillable_ranks() == ranks


@pytest.mark.parametrize(
    ("answer", "waiting"),
    [
        (Failed(traceback="x"), True),
        (Done(passed=False, result={"verdict": "error"}), True),
        (Done(passed=True, result={"verdict": "passed"}, poisoned=True), True),
        (Done(passed=False, result={"verdict": "failed"}), False),
        (Done(passed=True, result={"verdict": "passed"}), False),
    ],
)
def test_only_an_answer_that_ends_collectives_starts_the_clock_for_its_peers(
    pool, link, answer, waiting
):
    pool.ranks[1].send(answer)
    link.read()
    assert link.replies.answers == {1: answer}
    assert (link.replies.failed_at is not None) is waiting


def test_the_clock_for_peers_starts_with_the_first_failure(pool, link):
    pool.ranks[1].send(Failed(traceback="x"))
    link.read()
    first = link.replies.failed_at
    pool.ranks[0].send(Failed(traceback="y"))
    link.read()
    assert link.replies.failed_at == first


def test_a_rank_that_is_dead_keeps_no_message_from_the_others(pool, link):
    pool.ranks[0].close()
    link.read()
    for nonce in (1, 2):
        link.send_to_ranks(Probe(nonce=nonce))
    assert pool.ranks[1].receive() == [Probe(nonce=1), Probe(nonce=2)]


def test_a_holder_or_server_that_is_gone_is_noticed(pool, link):
    pool.holder.close()
    pool.far_server.close()
    link.read()
    assert (link.holder_gone, link.server_gone) == (True, True)
    link.ask_to_end()
    link.signal(9)


def test_a_holder_is_killed_by_its_pid_once_that_is_known(pool, link):
    link.kill_holder()
    assert pool.killed == []
    pool.holder.send(Forked(holder=7, ranks=[8, 9]))
    link.read()
    link.kill_holder()
    assert pool.killed == [7]


def test_logs_are_emptied_and_the_folder_goes_with_the_link(pool, link):
    assert (link.folder / "call").read_bytes() == b"content"
    link.logs[0].write_text("of the case before")
    link.clear_logs()
    assert pool.asked == [("cleared", link.folder)]
    link.log_ends()
    assert pool.asked[1:] == [("fetch", link.folder)]  # from where the ranks are
    assert link.logs[0].read_text() == ""
    assert pool.server.gangs == 1
    link.close()
    assert pool.server.gangs == 0
    assert not link.folder.exists()
