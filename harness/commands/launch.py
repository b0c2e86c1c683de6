"""Run the cases of a plan; record and show every event; an interrupt ends all ranks. No torch."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from harness.commands import hosts
from harness.errors import HarnessError
from harness.record.cross_case import compared
from harness.record.events import CaseEnded, RunStarted
from harness.record.ledger import judged
from harness.record.repeats import Repeats
from harness.record.result import Verdict
from harness.record.summary import BAD
from harness.report import png, progress

if TYPE_CHECKING:
    import argparse
    from collections.abc import Generator, Iterator
    from types import FrameType

    from harness.engine.run_options import RunOptions
    from harness.plan.plan import Plan
    from harness.plan.selection import Selection
    from harness.record.events import Event
    from harness.record.ledger import Ledger
    from harness.record.run_folder import RunFolder


class Terminated(KeyboardInterrupt):
    """Signal SIGTERM, handled as Ctrl-C is: the folder stays resumable."""


def launch(
    args: argparse.Namespace,
    selected: Selection,
    plan: Plan,
    folder: RunFolder,
    ledger: Ledger,
    until: float | None = None,
) -> int | None:
    """Run and record the remaining cases; return the exit code of an early end, or None.

    ledger: known failures, by which results are recorded. until: when to stop, as in
    `time.monotonic()`; cases without a verdict are then left.
    """
    options = replace(_options(args, selected, plan, folder, ledger), until=until)
    earlier = folder.events()
    ids = list(plan.cases.ids())
    folder.append(RunStarted(time=time.time(), cases=ids))
    show = progress.make(len(ids), folder.path, verbose=args.verbose)
    repeats = Repeats(args.repeat or 1)
    running = _events(plan.repeated(repeats.times), options, ledger, args)
    try:
        with terminable(), closing(show), _ending(running) as events:
            single = repeats.folded(events) if args.repeat else events
            for event in judged(compared(single, before=earlier), ledger):
                folder.append(event)
                _draw(event, folder)
                show.show(event)
                if args.fail_fast and _ends_run(event, options.forgiven):
                    break
    except KeyboardInterrupt as stop:
        return code_of(stop)
    except HarnessError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    finally:
        if args.repeat:
            print(repeats.line(), flush=True)
    return None


def _options(
    args: argparse.Namespace, selected: Selection, plan: Plan, folder: RunFolder, ledger: Ledger
) -> RunOptions:
    from harness.engine.other_seeds import FURTHER
    from harness.engine.run_options import RunOptions

    return RunOptions(
        log_dir=folder.log_dir,
        fail_fast=args.fail_fast,
        retries=0 if args.repeat else selected.retries,
        other_seeds=FURTHER,
        slots=hosts.slot_count(args, plan.machine),
        devices=plan.machine.devices,
        forgiven=ledger.forgiven(plan.cases.ids()),
        rank_options={
            "save_tensors": _tensors(folder),
            "plain_call": selected.plain_call,
            "undeclared": selected.undeclared,
            "trace": folder.info.options.trace,
            "pictures": str(folder.log_dir.absolute()),
        },
    )


def _events(
    plan: Plan, options: RunOptions, ledger: Ledger, args: argparse.Namespace
) -> Iterator[Event]:
    """Yield the events of a plan: first of what is not launched, since its quarantine is over."""
    from harness.engine import scheduler

    lapsed = [result for case_id in plan.cases.ids() if (result := ledger.lapsed(case_id))]
    for result in lapsed:
        yield CaseEnded(time=time.time(), gang=0, result=result)
    remaining = plan.without([result.case_id for result in lapsed])
    with hosts.pool_of(args) as pool, _ending(scheduler.run(remaining, options, pool)) as events:
        yield from events


def _draw(event: Event, folder: RunFolder) -> None:
    """Save a picture of a failed case; a full disk loses no more than that."""
    if isinstance(event, CaseEnded) and event.result.diagnoses:
        with suppress(OSError):
            png.save_experts(event.result, folder.log_dir)


def _ends_run(event: Event, forgiven: frozenset[str]) -> bool:
    """Return whether a run with -x ends here, for a reason that the engine does not know.

    It neither compares outputs across cases nor knows which failures are unexpected.
    """
    if not isinstance(event, CaseEnded):
        return False
    result = event.result
    is_unexpected = result.case_id in forgiven and result.verdict in BAD
    return result.verdict is Verdict.FAILED or is_unexpected


def _tensors(folder: RunFolder) -> str | None:
    """Return where ranks save tensors, or None; a resumed run keeps its first setting."""
    is_requested = folder.info.options.save_tensors
    return str(folder.path.absolute() / "tensors") if is_requested else None


def _ending(events: Iterator[Event]) -> closing[Generator[Event]]:
    """Return a context that closes the events, so that an interrupt between two ends the ranks."""
    return closing(cast("Generator[Event]", events))


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM end the run inside this context, as Ctrl-C does."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def code_of(stop: KeyboardInterrupt) -> int:
    """Return the exit code of a run that a signal ended."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
