"""Collect evidence from a gang that does not answer: stacks, NCCL's flight records. Torch-free.

Every rank's Python stack, its stack by py-spy where that is installed, and its flight record.
"""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from harness.engine import crash_evidence
from harness.engine.native_stacks import NativeStacks

if TYPE_CHECKING:
    from harness.engine.gang_channels import Link

STACK_LIMIT = 1.0  # seconds to wait for stacks
FLIGHT_LIMIT = 3.0  # seconds to wait for NCCL's flight records
NATIVE_LIMIT = 3.0  # seconds to wait for py-spy
PAUSE = 0.02  # seconds between polls: a selector cannot wait for a file


class HangEvidence:
    """Request every rank's stacks and flight record, and wait for them before the gang is killed.

    Ranks append stacks to their logs; a flight record is a file of its own in the gang's folder.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        link.fetch()
        self._log_sizes = {rank: crash_evidence.size(log) for rank, log in link.logs.items()}
        link.signal(signal.SIGUSR1)
        self._flights = crash_evidence.ask_for_flights(link.folder)
        now = time.monotonic()
        self._deadline = now + (FLIGHT_LIMIT if self._flights else STACK_LIMIT)
        self._native = NativeStacks(link.rank_pids, link.folder)
        self._native_deadline = now + NATIVE_LIMIT
        self.native: dict[int, str] = {}  # stacks by py-spy, by rank, once all is complete

    def is_complete(self, now: float) -> bool:
        """Return whether all evidence has arrived, or the time to wait for it is over."""
        if not (self._has_records(now) and self._has_native(now)):
            return False
        self.native = self._native.end()
        return True

    def _has_records(self, now: float) -> bool:
        link = self._link
        no_stack = link.logs.keys() - self.stacks().keys() - link.exits.keys()
        no_flight = self._flights > len(crash_evidence.flights(link.folder))
        return not (no_stack or no_flight) or now >= self._deadline

    def _has_native(self, now: float) -> bool:
        return self._native.is_complete() or now >= self._native_deadline

    def stacks(self) -> dict[int, str]:
        """Return what each rank's log holds since the request, of ranks that wrote a stack."""
        self._link.fetch()
        logs = self._link.logs.items()
        texts = {rank: crash_evidence.read(log, self._log_sizes[rank]) for rank, log in logs}
        return {rank: text for rank, text in texts.items() if crash_evidence.has_stack(text)}
