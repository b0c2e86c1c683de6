"""Serve a rank: join the process group, run one task after another, report to the controller.

Runs in the forked rank. The forkserver has imported everything that this module imports, so
start-up costs nothing here.
"""

from __future__ import annotations

import ctypes
import dataclasses
import datetime
import gc
import importlib
import os
import pickle
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore, Store, TCPStore

from harness.engine.collective_records import CollectiveTrace, trace_file
from harness.engine.crash_evidence import flight_file, flight_pipe
from harness.engine.messages import (
    CheckSums,
    Done,
    Failed,
    Probe,
    Probed,
    RankInit,
    Ready,
    RunTask,
    Status,
)
from harness.engine.rank_bootstrap import CALL, result_file
from harness.fixtures import process_state, state_changes
from harness.fixtures.cache_sums import sums_of
from harness.fixtures.rank_context import RankContext
from harness.matrix.case import MoETestConfig
from harness.record.result import RankResult, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.engine.channel import Channel

JOIN_LIMIT = 120  # seconds for ranks of other hosts to find the store
MEMORY_GROWTH = 1 << 30  # bytes that a failed case may leave allocated on the device


def main(channel: Channel, rank: int, world_size: int, folder: str, init: RankInit) -> None:
    """Serve until the controller closes the channel."""
    trace = CollectiveTrace(trace_file(folder, rank))
    context = dataclasses.replace(_context(channel, rank, world_size, init), trace=trace)
    _join(context, folder, init)
    run = _case_runner(init.executor, context) if init.executor else _call_runner(folder, rank)
    if init.transport == "nccl":
        threading.Thread(target=_record_flight, args=(folder, rank), daemon=True).start()
    channel.send(Ready(rank=rank))
    baseline, state = 0, process_state.capture()
    while (order := channel.wait()) is not None:
        if isinstance(order, RunTask):
            baseline = _allocated(context.device)
            trace.clear()
            channel.send(Status(text="started"))
            channel.send(_attempt(run, order))
        elif isinstance(order, Probe):
            unfit = _probe(context, order.nonce, baseline)
            channel.send(Probed(unfit=unfit) if unfit else _altered(context, state))
        elif isinstance(order, CheckSums):
            channel.send(_changed(context))


def _context(channel: Channel, rank: int, world_size: int, init: RankInit) -> RankContext:
    torch.set_num_threads(_threads(max(world_size, init.ranks_at_once)))
    device = torch.device("cpu")
    if init.device == "cuda":
        devices = init.devices or range(torch.cuda.device_count())
        device = torch.device("cuda", devices[rank % len(devices)])
        torch.cuda.set_device(device)
    return RankContext(
        rank=rank,
        world_size=world_size,
        device=device,
        transport=init.transport,
        options=init.options,
        device_ranks=init.device_ranks,
        report_status=lambda text: channel.send(Status(text=text)),
    )


def _threads(ranks: int) -> int:
    """Return torch's threads of each of `ranks` ranks at once, within what the environment allows.

    More threads than cores wait for each other: a small case then takes several times as long.
    """
    cores = len(os.sched_getaffinity(0))
    return max(1, min(torch.get_num_threads(), cores // ranks))


def _join(context: RankContext, folder: str, init: RankInit) -> None:
    """Set up the default process group through the gang's store."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all ranks are on this machine
    nccl = context.transport == "nccl"
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if nccl else "gloo",
        store=_store(context, folder, init),
        rank=context.rank,
        world_size=context.world_size,
        timeout=datetime.timedelta(seconds=init.group_timeout),
        device_id=context.device if nccl else None,
    )


def _store(context: RankContext, folder: str, init: RankInit) -> Store:
    """Return a file in a folder that no gang used before, or rank 0's store for several hosts.

    Rank 0 listens on a socket that its host has bound: to one address, at a port that was free.
    """
    if not init.rendezvous:
        return FileStore(str(Path(folder) / "rendezvous"), context.world_size)
    host, _, port = init.rendezvous.rpartition(":")
    is_master = context.rank == 0
    return TCPStore(
        host,
        int(port),
        context.world_size,
        is_master=is_master,
        timeout=datetime.timedelta(seconds=JOIN_LIMIT),
        wait_for_workers=False,
        master_listen_fd=init.store_fd if is_master else None,
    )


def _case_runner(executor: str, context: RankContext) -> Callable[[RunTask], Done]:
    module, _, name = executor.partition(":")
    execute = getattr(importlib.import_module(module), name)

    def run(order: RunTask) -> Done:
        task_context = dataclasses.replace(context, sum_all=order.sum_all)  # shares the caches
        result = execute(MoETestConfig.from_id(order.task), task_context)
        if not isinstance(result, RankResult):
            raise TypeError(f"{executor} must return a RankResult, not {type(result).__name__}")
        return Done(
            passed=result.verdict is Verdict.PASSED,
            result=result.to_json(),
            poisoned=result.poisoned,
            unclear=result.unclear,
        )

    return run


def _call_runner(folder: str, rank: int) -> Callable[[RunTask], Done]:
    def run(_order: RunTask) -> Done:
        # Written by the caller, the same user, into a folder that only this user can enter.
        function, arguments = pickle.loads((Path(folder) / CALL).read_bytes())  # noqa: S301
        value = to_host(function(*arguments))
        result_file(folder, rank).write_bytes(pickle.dumps(value))
        return Done(passed=True, result={})

    return run


def to_host(value: Any) -> Any:
    """Return the value with every tensor on the CPU, so that the caller needs no device."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, dict):
        return {key: to_host(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(to_host(item) for item in value)
    return value


def _attempt(run: Callable[[RunTask], Done], order: RunTask) -> Done | Failed:
    """Run a task and return its result, or the traceback of its exception.

    SystemExit and KeyboardInterrupt end the rank.
    """
    try:
        return run(order)
    except Exception:
        return Failed(traceback=_task_traceback(traceback.format_exc()))
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        ctypes.CDLL(None).fflush(None)  # output of C code also belongs to this case


def _task_traceback(text: str) -> str:
    """Return a traceback without this module's frames above the task."""
    head, _, body = text.partition("\n")
    lines = body.split("\n")
    while lines and f'"{__file__}"' in lines[0]:
        del lines[0]
        while lines and lines[0].startswith("    "):
            del lines[0]
    return "\n".join([head, *lines]).strip()


def _record_flight(folder: str, rank: int) -> None:
    """Wait for a request, then write NCCL's flight record. Runs in a separate thread.

    The main thread may hang by then, but hangs in NCCL and CUDA leave the interpreter free. The
    recorder's own pipe returned nothing within seconds of a hang.
    """
    dump = getattr(torch._C._distributed_c10d, "_dump_nccl_trace_json", None)
    if dump is None:
        return
    pipe, target = flight_pipe(folder, rank), flight_file(folder, rank)
    os.mkfifo(pipe, 0o600)
    pipe.read_bytes()  # returns when the controller has closed its end
    text = dump()
    partial = target.with_suffix(".partial")
    partial.write_bytes(text.encode() if isinstance(text, str) else text)
    partial.rename(target)


def _allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def _probe(context: RankContext, nonce: int, baseline: int) -> str:
    """Return why this rank must not run another case, or "". Collective over all ranks."""
    gc.collect()  # the traceback of a failed case refers to its tensors
    try:
        if context.device.type == "cuda":
            torch.cuda.synchronize(context.device)
        devices = [torch.device("cpu")]
        if context.transport == "nccl":
            devices.append(context.device)
        for device in devices:
            if unfit := _stray(context, nonce, device):
                return unfit
        growth = _allocated(context.device) - baseline
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    if growth > MEMORY_GROWTH:
        return f"the case left {growth >> 20} MiB allocated, more than {MEMORY_GROWTH >> 20} MiB"
    return ""


def _altered(context: RankContext, start: process_state.ProcessState) -> Probed:
    """Report what differs from the start of the rank, or from the cached tensors."""
    try:
        changes = state_changes.changes(start, process_state.capture())
    except Exception as error:
        return Probed(unfit=f"{type(error).__name__}: {error}")
    return Probed(unfit="; ".join(changes)) if changes else _changed(context)


def _changed(context: RankContext) -> Probed:
    """Report whether a cached tensor has changed."""
    try:
        change = sums_of(context).change(all_entries=True, at_end=True)
    except Exception as error:
        return Probed(unfit=f"{type(error).__name__}: {error}")
    return Probed(unfit=change.text, changed=True) if change else Probed(unfit="")


def _stray(context: RankContext, nonce: int, device: torch.device) -> str:
    """Return a message if data of an older collective arrives instead of this probe's, or ""."""
    sent = torch.tensor([nonce, context.rank], dtype=torch.int64, device=device)
    rows = [torch.zeros_like(sent) for _ in range(context.world_size)]
    dist.all_gather(rows, sent)
    received = [row.tolist() for row in rows]
    expected = [[nonce, rank] for rank in range(context.world_size)]
    return (
        ""
        if received == expected
        else f"a stray collective on {device}: got {received}, not {expected}"
    )
