"""One gang over two hosts that share nothing: a pass, slow and cut links, a host that is gone."""

from __future__ import annotations

import time

import pytest

from harness.record.events import CaseStarted
from harness.record.result import Verdict
from harness.record.run_folder import RunFolder, last_results
from tests.faults import host_namespaces
from tests.faults.host_namespaces import PORT, Network
from tests.harness.engine.engine_tools import marked, wait_for

FOUR = "m:2-n:256-k:128-e:8-topk:2-experts:torch_loop-dp:4-ep"
SHARED = FOUR.replace("-dp:4", "-a2a:symm_mem-dp:4")  # ranks that write into each other's memory
REFUSAL = host_namespaces.refusal()

pytestmark = pytest.mark.skipif(REFUSAL is not None, reason=str(REFUSAL))


@pytest.fixture(scope="module")
def network():
    network = Network(2)
    try:
        network.start_agents()
        yield network
    finally:
        network.close()
        # A namespace's processes are killed with its first one, a moment after `unshare` is gone.
        assert wait_for(lambda: not marked(network.mark)), marked(network.mark)


def folder(network, out):
    return RunFolder.open(network.controller.tmp / out)


def started(network, out):
    """Whether the first case of a run has begun."""
    path = network.controller.tmp / out
    return (path / "run.json").exists() and any(
        isinstance(event, CaseStarted) for event in folder(network, out).events()
    )


def result(network, out, case=FOUR):
    return last_results(folder(network, out).events())[case]


def is_idle(network, host):
    """Whether nothing but the agent runs on a host, and it says that the run has ended."""
    ended = network.log(host).rstrip().endswith("the run has ended")
    return ended and len(host.processes()) == 1


def listening(host):
    """The addresses at which processes of a host listen."""
    lines = host.run("ss", "-tlnH").splitlines()
    return {line.split()[3].rpartition(":")[0] for line in lines}


def test_a_gang_of_four_passes_and_listens_on_the_asked_address_only(network):
    run = network.start_run("--case", FOUR, f"{FOUR}-seed:1", SHARED, out="passes")
    seen = [set(), set()]
    while run.poll() is None:
        for host, addresses in zip(network.hosts, seen, strict=True):
            addresses |= listening(host)
        time.sleep(0.05)
    assert run.returncode == 4, network.text("passes")  # one of the named cases is refused
    assert result(network, "passes").verdict is Verdict.PASSED
    assert set(result(network, "passes").ranks) == {"0", "1", "2", "3"}
    (refused,) = folder(network, "passes").info.refused
    assert (refused.case, "peer_memory" in refused.text) == (SHARED, True)
    assert seen == [{host.ip} for host in network.hosts]
    assert wait_for(lambda: all(is_idle(network, host) for host in network.hosts))
    assert marked(network.mark)  # the agents go on


def test_a_slow_link_costs_time_and_one_that_is_too_slow_hangs_with_every_stack(network):
    other = network.hosts[1]
    network.slow_down(other, "2mbit")
    run = network.start_run("--case", FOUR, out="slow")
    assert run.wait(120) == 0, network.text("slow")
    network.slow_down(other, "24kbit")
    run = network.start_run("--case", FOUR, "--time-limit", "4", out="too-slow")
    assert run.wait(120) == 1, network.text("too-slow")
    network.mend(other)
    hung = result(network, "too-slow")
    assert hung.verdict is Verdict.HUNG
    text = "\n".join(hung.messages)
    assert text.count("innermost frames") == 4, text  # of the ranks of both hosts
    assert wait_for(lambda: all(is_idle(network, host) for host in network.hosts))


def test_a_cut_link_is_the_machines_fault_and_both_sides_end_their_ranks(network):
    other = network.hosts[1]
    network.slow_down(other, "24kbit")
    run = network.start_run("--case", FOUR, f"{FOUR}-seed:1", "--time-limit", "60", out="cut")
    assert wait_for(lambda: started(network, "cut"), 60)
    network.cut(other)
    begun = time.monotonic()
    assert run.wait(60) == 75
    assert time.monotonic() - begun < 30
    text = network.text("cut")
    assert "host 10.77.0.2:4000 does not answer" in text
    assert "to resume: python -m harness run --resume" in text
    assert result(network, "cut").verdict is Verdict.INFRA
    assert wait_for(lambda: all(is_idle(network, host) for host in network.hosts), 30)
    network.mend(other)
    again = network.start_run("--case", FOUR, out="mended")
    assert again.wait(120) == 0, network.text("mended")


def test_a_host_that_disappears_is_named_and_the_others_end_their_ranks(network):
    first, other = network.hosts
    network.slow_down(other, "24kbit")
    run = network.start_run("--case", FOUR, "-v", out="gone")
    assert wait_for(lambda: started(network, "gone"), 60)
    other.process.kill()
    assert run.wait(60) == 75
    text = network.text("gone")
    assert f"host {other.ip}:{PORT} with ranks 2-3 is gone" in text, text
    assert result(network, "gone").verdict is Verdict.INFRA
    assert wait_for(lambda: is_idle(network, first), 30)
