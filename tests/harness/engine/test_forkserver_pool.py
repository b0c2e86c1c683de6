"""A pool of forkservers: the environment that ranks get, and when a new process is needed."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from harness import cli
from harness.engine import forkserver_pool
from harness.engine.forkserver_pool import MULTICAST_OFF, Pool
from harness.engine.gang import Gang
from harness.engine.gang_notices import State, watch
from harness.engine.gang_spec import GangSpec
from harness.errors import ExitCode, InfrastructureError
from harness.testing.parallel_launch import parallel_launch
from tests.faults.test_full_disk import NAMESPACE, can_mount
from tests.harness.engine import engine_calls
from tests.harness.engine.engine_pools import CPU, gang_is_ready, preloaded
from tests.harness.engine.engine_tools import wait_for

START = """
from harness.engine.forkserver_pool import Pool
from harness.errors import InfrastructureError
try:
    Pool()
except InfrastructureError as error:
    print(error)
"""


def test_device_ranks_never_interpret_whatever_the_caller_does(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with Pool() as own:
        server = own.forkserver(GangSpec(world_size=1, device="cuda", transport="nccl", options={}))
        pid = preloaded(server).pid
        assert b"TRITON_INTERPRET" not in Path(f"/proc/{pid}/environ").read_bytes()
        assert b"\0PATH=" in b"\0" + Path(f"/proc/{pid}/environ").read_bytes()


def test_without_torch_a_run_says_so_in_one_line_and_can_be_resumed(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)  # as `importlib` sees a missing package
    one, out = "m:1-n:64-k:64-e:2-topk:1-experts:torch_loop", tmp_path / "run"
    argv = ["run", "--out", str(out), "--case", one, "--case", f"{one}-tp:2"]  # two gangs
    assert cli.main(argv) == ExitCode.INFRASTRUCTURE
    output = capsys.readouterr()
    assert output.err == (
        f"no case can run: every rank imports torch, and {sys.executable} does not have it; "
        "install it (pip install torch), or use an interpreter that has it\n"
    )
    assert f"to resume: python -m harness run --resume {out}\n" in output.out
    assert " not_run=2 " in output.out


def test_the_environment_is_the_inherited_one_with_additions(monkeypatch):
    monkeypatch.setenv("SET_LATE", "by the caller, after the forkserver was started")
    seen = parallel_launch(1, engine_calls.environment)[0]
    added = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "TRITON_INTERPRET"}
    added |= {"OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY", "GLOO_SOCKET_IFNAME"}
    added |= {"LINES", "COLUMNS"}  # a terminal library's, at import
    assert seen == {**seen, **os.environ}
    assert seen.keys() - os.environ.keys() <= added


def test_threads_of_ranks_wait_without_spinning_unless_told_to(monkeypatch):
    assert parallel_launch(1, engine_calls.environment)[0]["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert parallel_launch(1, engine_calls.environment)[0]["OMP_WAIT_POLICY"] == "ACTIVE"


def test_a_variable_that_the_caller_removed_is_gone(monkeypatch):
    monkeypatch.setenv("SHORT_LIVED", "1")
    parallel_launch(1, engine_calls.environment)
    monkeypatch.delenv("SHORT_LIVED")
    assert "SHORT_LIVED" not in parallel_launch(1, engine_calls.environment)[0]


@pytest.mark.parametrize("name", MULTICAST_OFF)
def test_the_switches_against_multicast_reach_every_rank(monkeypatch, name):
    monkeypatch.setenv(name, "sentinel")
    assert [seen[name] for seen in parallel_launch(2, engine_calls.environment)] == ["sentinel"] * 2


def test_the_switches_against_multicast_outlive_their_removal():
    before = {"NCCL_NVLS_ENABLE": "0", "OTHER": "1", **os.environ}
    _, unset = forkserver_pool._changes(before)
    assert unset == ["OTHER"]


def test_edited_sources_make_a_new_forkserver_and_living_gangs_keep_theirs(tmp_path, monkeypatch):
    root = tmp_path / "root"
    (root / "moe").mkdir(parents=True)
    (root / "moe" / "some.py").write_text("x = 1\n")
    shutil.copytree(Path(forkserver_pool.__file__).parents[1], root / "harness")
    monkeypatch.setattr(forkserver_pool, "_ROOT", root)
    with Pool() as own:
        gang = Gang(own, CPU)
        assert gang_is_ready(gang)
        first = own.forkserver(CPU)
        assert own.forkserver(CPU) is first
        (root / "moe" / "some.py").write_text("x = 22\n")
        second = own.forkserver(CPU)
        assert second is not first
        assert own.forkserver(CPU) is second
        lost = wait_for(lambda: gang.poll() or gang.state is not State.IDLE, 1.5)
        assert not lost, "a living gang must not lose its forkserver"
        gang.end("done")
        while gang.state is not State.DEAD:
            watch([gang])
            gang.poll()
        own.forkserver(CPU)
        assert wait_for(lambda: not Path(f"/proc/{first.preloaded.pid}").exists())
        assert preloaded(second)


def test_a_forkserver_that_was_killed_is_replaced():
    with Pool() as own:
        first = own.forkserver(CPU)
        os.kill(preloaded(first).pid, 9)
        assert wait_for(lambda: first.poll() or first.channel.closed)
        assert gang_is_ready(Gang(own, CPU))


def test_a_guardian_that_was_killed_is_replaced():
    with Pool() as own:
        first = own.forkserver(CPU)
        own.guardian.kill()
        own.guardian.wait()
        assert wait_for(lambda: first.poll() or first.channel.closed)
        assert gang_is_ready(Gang(own, CPU))


def test_a_pool_closes_even_when_its_guardian_was_killed():
    from harness.engine.forkserver_pool import Pool

    pool = Pool()
    pool.guardian.kill()
    pool.guardian.wait()
    pool.close()
    assert not pool.folder.exists()
    assert str(pool.folder).startswith(tempfile.gettempdir())


def test_a_missing_folder_for_temporary_files_is_the_machines_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(InfrastructureError, match=r"a folder for ranks in .*/gone: No such"):
        Pool()


@pytest.mark.skipif(not can_mount(), reason="no mount namespace: unshare --mount failed")
def test_a_full_disk_is_named_and_nothing_is_left_on_it(tmp_path):
    mount = f"mount -t tmpfs -o nr_inodes=2 none {shlex.quote(str(tmp_path))}"  # itself, a folder
    start = shlex.join([sys.executable, "-c", START])
    done = subprocess.run(
        [*NAMESPACE, "sh", "-c", f"{mount} && {start}; ls -A {shlex.quote(str(tmp_path))}"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == (
        f"cannot make a folder for ranks in {tmp_path}: No space left on device; free some space "
        "there, or set TMPDIR to another folder\n"
    ), done.stderr
