"""Control a gang: a state machine driven by messages, process exits and time.

    STARTING -> IDLE -> RUNNING -> IDLE              every rank answered and passed
                        RUNNING -> PROBING -> IDLE   every rank answered; the probe succeeded
                        RUNNING -> EVIDENCE -> DYING over the time limit, or stuck after an error
                        any     -> DYING -> DEAD     a rank ended, or the owner called `end`

Torch-free; it never blocks. The owner waits with `watch`, calls `poll` and handles the notices.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from harness.engine import hang_evidence
from harness.engine.gang_channels import Link, Replies
from harness.engine.gang_notices import GangDead, GangReady, State
from harness.engine.hang_evidence import HangEvidence
from harness.engine.messages import CheckSums, Done, Probe, RunTask
from harness.engine.rank_activity import RankActivity
from harness.engine.rank_bootstrap import KILL_LIMIT, MEMORY_LIMIT
from harness.engine.task_outcome import Ended, Outcome

if TYPE_CHECKING:
    from harness.engine.gang_notices import Notice
    from harness.engine.gang_spec import GangSpec
    from harness.engine.gang_starter import GangStarter

START_LIMIT = 180.0  # seconds until all ranks are ready, including the forkserver's start
GRACE = 2.0  # seconds for the other ranks to answer after one raised
SETTLE = 0.2  # seconds for other ranks to end as well, after one ended
PROBE_LIMIT = 5.0  # seconds
_NONCES = itertools.count(1_000_003, 7919)


class Gang:
    """The ranks of one world; `Gang(pool, spec)` also starts them."""

    def __init__(
        self, pool: GangStarter, spec: GangSpec, call: tuple[str, bytes] | None = None
    ) -> None:
        """Start the ranks. call: name and content of a file for the gang's folder, or None."""
        self.world_size = spec.world_size
        self.tasks = 0  # number of tasks sent so far
        self.unsummed = 0  # number of tasks since all cached tensors were known to be unchanged
        self.link = Link(pool, spec, call)
        self._born = time.monotonic()
        self._was_ready = False
        self._task = ""
        self._start = self._limit = 0.0  # of the current task, in time.monotonic()
        self._crashed_at: float | None = None
        self._evidence: HangEvidence | None = None  # of the current task, once it is requested
        self._has_cpu_work = spec.device == "cpu"
        self._end_reason = self._probe_occasion = self._log = ""
        self._unready: tuple[int, ...] = ()
        self._enter(State.STARTING, START_LIMIT)

    def run(self, task: str, limit: float, *, sum_all: bool = False) -> None:
        """Send a task to every rank. limit: seconds. sum_all: see RunTask."""
        assert self.state is State.IDLE, self.state
        if self.tasks:  # the first task's log includes the output of the start
            self.link.clear_logs()
        self.tasks += 1
        self.unsummed = 0 if sum_all else self.unsummed + 1
        self.link.replies = Replies()
        self._task, self._start = task, time.monotonic()
        self._crashed_at = self._evidence = None
        self._computing: dict[int, str] = {}  # ranks that compute at the limit
        self._limit = self._start + limit
        self._activity = RankActivity(limit, is_known=self._has_cpu_work)
        self.link.send_to_ranks(RunTask(task=task, sum_all=sum_all))
        self._enter(State.RUNNING, (self._activity.begins or self._limit) - self._start)

    def check_sums(self) -> None:
        """Sum the cached tensors that no later case has summed; the gang is then idle, or dies."""
        self._probe(CheckSums(), "at its end")

    def probe(self, occasion: str) -> None:
        """Ask every rank whether it can be used again; the gang is then idle, or dies."""
        self._probe(Probe(nonce=next(_NONCES)), occasion)

    def end(self, reason: str) -> None:
        """Kill the gang; `GangDead` follows once no process is left."""
        if self.state in (State.DYING, State.DEAD):
            return
        self._end_reason = reason
        self.link.ask_to_end()
        self._enter(State.DYING, KILL_LIMIT + MEMORY_LIMIT + 5)

    def abandon(self) -> None:
        """Kill the gang without waiting for it; the holder still ends every process."""
        if self.state is not State.DEAD:
            self.end("abandoned")
            self._enter(State.DEAD, None)
            self.link.close()

    def poll(self) -> list[Notice]:
        """Read new messages, check the deadlines, and return what happened."""
        if self.state is State.DEAD:
            return []
        self.link.read()
        return self._step(time.monotonic())

    def _enter(self, state: State, limit: float | None) -> None:
        self.state = state
        self.deadline = None if limit is None else time.monotonic() + limit

    def _step(self, now: float) -> list[Notice]:
        late = self.deadline is not None and now >= self.deadline
        starting = self.state is State.STARTING
        if self.state is State.DYING:
            return self._when_dying(late)
        if self.link.holder_gone or (starting and self.link.server_gone):
            return self._when_lost()
        if starting:
            return self._when_starting(late)
        if self.state is State.RUNNING:
            return self._when_running(now)
        if self.state is State.EVIDENCE:
            return self._when_collecting_evidence(now)
        if self.state is State.PROBING:
            self._when_probing(late)
        elif self.link.exits:
            self.end(f"{self.link.exit_words()} between cases")
        return []

    def _when_starting(self, late: bool) -> list[Notice]:
        if self.link.exits:
            self._end_start(f"{self.link.exit_words()} before the gang was ready")
        elif self.link.all_ready:
            self._was_ready = True
            self._enter(State.IDLE, None)
            return [GangReady(seconds=time.monotonic() - self._born)]
        elif late:
            self._request_evidence()
        return []

    def _end_start(self, reason: str) -> None:
        self._log = self.link.log_ends()
        silent = set(range(self.world_size)) - self.link.ready
        self._unready = tuple(sorted(self.link.exits or silent))
        self.end(reason)

    def _when_running(self, now: float) -> list[Notice]:
        exits, replies = self.link.exits, self.link.replies
        missing = set(range(self.world_size)) - replies.answers.keys()
        if exits:
            self._crashed_at = self._crashed_at or now
            self.deadline = self._crashed_at + SETTLE
            if missing <= exits.keys() or now >= self.deadline:
                begun = exits.keys() & replies.last_status.keys()
                return self._finish(Ended.CRASHED if begun else Ended.NOT_BEGUN)
            return []
        if not missing:
            return self._finish(Ended.ANSWERED)
        if replies.failed_at is not None:
            self.deadline = min(self._limit, replies.failed_at + GRACE)
        elif self._activity.begins is not None and now >= self._activity.begins:
            self._activity.begin(self.link.rank_pids)
            self.deadline = self._limit
        if self.deadline is not None and now >= self.deadline:
            self._request_evidence()
        return []

    def _request_evidence(self) -> None:
        if self._was_ready:
            silent = self.link.logs.keys() - self.link.replies.answers.keys()
            self._computing = self._activity.computing(self.link.rank_pids, silent)
        self._evidence = HangEvidence(self.link)
        self._enter(State.EVIDENCE, hang_evidence.PAUSE)

    def _when_collecting_evidence(self, now: float) -> list[Notice]:
        assert self._evidence is not None
        if not self._evidence.is_complete(now):
            self.deadline = now + hang_evidence.PAUSE
            return []
        if not self._was_ready:
            self._end_start(f"not ready within {START_LIMIT:g} s")
            return []
        return self._finish(Ended.HUNG if self.link.replies.failed_at is None else Ended.STUCK)

    def _finish(self, ended: Ended) -> list[Notice]:
        """Return the outcome of the task, and end, probe or keep the gang."""
        outcome = self._outcome(ended)
        answers = list(outcome.answers.values())
        if ended is not Ended.ANSWERED:
            words = outcome.loss or self.link.exit_words()
            words = f" ({words})" if words else ""
            self.end(f"{ended.name.lower()}{words}: {self._task}")
        elif any(isinstance(answer, Done) and answer.poisoned for answer in answers):
            culprit = "the case or an earlier one" if outcome.is_unclear else "the case"
            self.end(f"{culprit} altered its ranks' processes: {self._task}")
        elif all(isinstance(answer, Done) and answer.passed for answer in answers):
            self._enter(State.IDLE, None)
        else:
            self.probe("after a failed case")
        return [outcome]

    def _outcome(self, ended: Ended) -> Outcome:
        replies, now = self.link.replies, time.monotonic()
        has_passed = all(isinstance(a, Done) and a.passed for a in replies.answers.values())
        if ended is not Ended.ANSWERED or not has_passed:
            self.link.fetch()
        status = replies.last_status.items()
        is_late = ended in (Ended.HUNG, Ended.STUCK)
        return Outcome(
            task=self._task,
            ended=ended,
            seconds=now - self._start,
            answers=replies.answers,
            exits=dict(self.link.exits),
            last_status={rank: (text, now - at) for rank, (text, at) in status},
            stacks=self._evidence.stacks() if self._evidence and is_late else {},
            native=self._evidence.native if self._evidence and is_late else {},
            blocked=self.link.blocked_ranks() if is_late else {},
            collectives=self.link.collectives_text() if self._is_blocked(ended) else "",
            logs=self.link.logs,
            computing=self._computing if ended is Ended.HUNG else {},
            loss=self.link.loss if ended is Ended.LOST else "",
        )

    def _is_blocked(self, ended: Ended) -> bool:
        """Return whether ranks wait for each other, or one ended for what another one entered."""
        raised = ended is Ended.ANSWERED and self.link.replies.failed_at is not None
        return raised or ended in (Ended.HUNG, Ended.STUCK, Ended.CRASHED)

    def _probe(self, message: Probe | CheckSums, occasion: str) -> None:
        self.link.probed, self._probe_occasion = {}, occasion
        self.link.send_to_ranks(message)
        self._enter(State.PROBING, PROBE_LIMIT)

    def _when_probing(self, late: bool) -> None:
        unfit = {rank: reason for rank, reason in self.link.probed.items() if reason}
        if self.link.exits:
            self.end(f"{self.link.exit_words()} in the probe {self._probe_occasion}")
        elif unfit or late:
            silent = set(range(self.world_size)) - self.link.probed.keys()
            unfit |= dict.fromkeys(silent, f"no answer within {PROBE_LIMIT:g} s") if late else {}
            words = "; ".join(f"rank {rank}: {reason}" for rank, reason in sorted(unfit.items()))
            self.end(f"unfit {self._probe_occasion}: {words}")
        elif len(self.link.probed) == self.world_size:
            self.unsummed = 0
            self._enter(State.IDLE, None)

    def _when_lost(self) -> list[Notice]:
        """End the gang after the loss of its holder or forkserver, and so of its ranks."""
        running = self.state in (State.RUNNING, State.EVIDENCE) and self._was_ready
        notices = self._finish(Ended.LOST) if running else []
        self._log = f"{self.link.server_log}\n{self.link.log_ends()}"
        self.end(self.link.loss)
        self.deadline = time.monotonic()
        return notices

    def _when_dying(self, late: bool) -> list[Notice]:
        swept = self.link.swept
        if swept is None and not late and not self.link.holder_gone:
            return []
        if swept is None:
            self.link.kill_holder()
        elif swept.survivors:
            self._end_reason += f"; cannot be killed: processes {swept.survivors}"
        elif swept.orphans:
            words = f"{swept.orphans} processes that its cases had left behind were killed"
            self._end_reason += f" ({words})"
        self._enter(State.DEAD, None)
        self.link.close()
        dead = GangDead(
            reason=self._end_reason,
            ready=self._was_ready,
            log=self._log,
            changed=self.link.changed,
            unready=self._unready,
            unkillable=self.link.unkillable_ranks(),
        )
        return [dead]
