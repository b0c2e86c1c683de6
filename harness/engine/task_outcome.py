"""Turn the end of a task in a gang into the result of a case. Torch-free."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING

from harness.engine import crash_evidence
from harness.engine.messages import Done, Failed
from harness.record.formatting import ranks_text
from harness.record.rank_merge import merge
from harness.record.result import Attempt, CaseResult, Finding, RankResult, Verdict
from harness.record.run_folder import log_name
from harness.report import failure_text

if TYPE_CHECKING:
    from pathlib import Path


class Ended(Enum):
    """How a task ended."""

    ANSWERED = auto()  # every rank sent done or failed
    STUCK = auto()  # a rank failed, and others did not answer within the grace period
    CRASHED = auto()  # a rank's process ended
    HUNG = auto()  # over the time limit
    NOT_BEGUN = auto()  # ranks ended before they began, because of an earlier task
    LOST = auto()  # a process of the engine ended, for no reason of the task's


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of one task, before it becomes a verdict. All dicts are by rank."""

    task: str
    ended: Ended
    seconds: float
    answers: dict[int, Done | Failed]
    exits: dict[int, int]  # as os.waitstatus_to_exitcode gives it
    last_status: dict[int, tuple[str, float]]  # each rank's last status, and its age in seconds
    stacks: dict[int, str]  # of ranks that were stuck
    logs: dict[int, Path]  # valid until the gang is dead
    collectives: str = ""  # which ranks wait in which collective for which others
    native: dict[int, str] = field(default_factory=dict)  # stacks by py-spy, or its errors
    blocked: dict[int, str] = field(default_factory=dict)  # why a rank answers no signal
    computing: dict[int, str] = field(default_factory=dict)  # at the limit: how much, in words
    loss: str = ""  # which process or host was lost, if one was

    @property
    def is_unclear(self) -> bool:
        """Return whether a rank cannot tell if this task or an earlier one altered it."""
        return any(isinstance(answer, Done) and answer.unclear for answer in self.answers.values())


_VERDICTS = {
    Ended.STUCK: Verdict.ERROR,
    Ended.CRASHED: Verdict.CRASHED,
    Ended.HUNG: Verdict.HUNG,
    Ended.NOT_BEGUN: Verdict.INFRA,
    Ended.LOST: Verdict.INFRA,
}


def case_result(outcome: Outcome) -> CaseResult:
    """Return the result of a case; its `log` is not set yet."""
    results = [
        RankResult.from_json(answer.result) if isinstance(answer, Done) else _raised(rank, answer)
        for rank, answer in outcome.answers.items()
    ]
    world_size = len(outcome.logs)
    if outcome.ended is Ended.ANSWERED:
        merged = merge(outcome.task, world_size, results, outcome.seconds)
        return merged.with_messages(before=_collectives(outcome))
    return dataclasses.replace(
        _with_rank_words(outcome, results),
        verdict=_VERDICTS[outcome.ended],
        reason="too_slow" if outcome.computing else outcome.ended.name.lower(),
        ranks=_rank_verdicts(outcome, results),
    )


def _with_rank_words(outcome: Outcome, results: list[RankResult]) -> CaseResult:
    """Merge the answers and describe the other ranks: first, unless another rank's error is why."""
    # World size 0: `rank_words` describes ranks without a result, so `merge` need not.
    base = CaseResult(case_id=outcome.task, verdict=Verdict.INFRA, seconds=outcome.seconds)
    merged = merge(outcome.task, 0, results, outcome.seconds) if results else base
    words = (*rank_words(outcome).values(), *_answered(results))
    if outcome.ended is Ended.CRASHED:
        return merged.with_messages(before=(*words, *_collectives(outcome)))
    words = (*filter(None, [outcome.loss, _too_slow(outcome)]), *_collectives(outcome), *words)
    if outcome.ended is Ended.STUCK:
        return merged.with_messages(after=words)
    return merged.with_messages(before=words)


def _too_slow(outcome: Outcome) -> str:
    """Return that ranks were computing until the limit, and the ways out; "" if none was."""
    if not outcome.computing:
        return ""
    words = ", ".join(f"rank {rank} {text}" for rank, text in sorted(outcome.computing.items()))
    return (
        f"too slow for its limit, or in an endless loop, as its frames tell: {words}; give it more "
        "time by --time-limit, or run a smaller case"
    )


def _collectives(outcome: Outcome) -> tuple[str, ...]:
    """Return the message on collectives, if there is one."""
    return (f"collectives differ: {outcome.collectives}",) if outcome.collectives else ()


def _answered(results: list[RankResult]) -> tuple[str, ...]:
    """Return the verdicts of the ranks that answered, so that every rank is accounted for."""
    ranks: dict[Verdict, list[int]] = {}
    for result in results:
        ranks.setdefault(result.verdict, []).append(result.rank)
    return tuple(f"{ranks_text(numbers)}: {verdict}" for verdict, numbers in ranks.items())


def _raised(rank: int, answer: Failed) -> RankResult:
    """Return the result of a rank whose task raised an exception."""
    finding = Finding(check="run", verdict=Verdict.ERROR, text=answer.traceback)
    return RankResult(rank=rank, verdict=Verdict.ERROR, findings=(finding,))


def _rank_verdicts(outcome: Outcome, results: list[RankResult]) -> dict[str, str]:
    ranks = {str(rank): "silent" for rank in outcome.logs}
    ranks |= {str(result.rank): str(result.verdict) for result in results}
    return ranks | {str(rank): str(Verdict.CRASHED) for rank in outcome.exits}


def rank_words(outcome: Outcome) -> dict[int, str]:
    """Describe, with evidence, each rank that ended, and then each that did not answer."""
    words = {rank: _exit_words(outcome, rank) for rank in outcome.exits}
    for rank in outcome.logs.keys() - outcome.answers.keys() - outcome.exits.keys():
        words[rank] = _stuck_words(outcome, rank)
    order = sorted(words, key=lambda rank: (rank not in outcome.exits, rank))
    return {rank: f"rank {rank}: {words[rank]}" for rank in order}


def _exit_words(outcome: Outcome, rank: int) -> str:
    text = f"{crash_evidence.how_ended(outcome.exits[rank])}{_last_status(outcome, rank)}"
    log = crash_evidence.read(outcome.logs[rank])
    if crash_evidence.has_stack(log):  # faulthandler's, at a fatal signal
        return f"{text}; innermost frames:\n{crash_evidence.main_stack(log)}"
    return f"{text}; end of its log:\n{crash_evidence.last_lines(log)}"


def _stuck_words(outcome: Outcome, rank: int) -> str:
    text = f"still running after {outcome.seconds:.1f} s{_last_status(outcome, rank)}"
    if rank in outcome.stacks:
        return f"{text}; innermost frames:\n{crash_evidence.main_stack(outcome.stacks[rank])}"
    if outcome.ended in (Ended.HUNG, Ended.STUCK):
        return f"{text}; {outcome.blocked.get(rank) or 'no stack could be read'}"
    return f"{text} when it was killed with the gang"


def _last_status(outcome: Outcome, rank: int) -> str:
    if rank not in outcome.last_status:
        return ", had not started"
    text, seconds = outcome.last_status[rank]
    return f" (last status {text!r}, {seconds:.1f} s earlier)"


def write_case_log(
    outcome: Outcome, result: CaseResult, message: list[str], folder: Path
) -> CaseResult:
    """Write the case's log into `folder`; return the result with the log's name.

    message: lines of the failure text, at the start of the log. If the log cannot be written,
    the result says so and its verdict stays.
    """
    sections = {"result": "\n".join([str(result.verdict), *message])}
    for rank, path in outcome.logs.items():
        sections[f"rank {rank}"] = crash_evidence.read(path)
    sections |= {f"rank {r}, stack by py-spy": text for r, text in outcome.native.items()}
    name = log_name(result.case_id, result.attempt)
    gang_folder = next(iter(outcome.logs.values())).parent
    try:
        crash_evidence.write_log(folder, name, sections)
        crash_evidence.keep_flights(gang_folder, folder, name.removesuffix(".log"))
    except OSError as error:
        return result.with_messages(after=(f"its log could not be written: {error}",))
    return dataclasses.replace(result, log=name)


def with_history(result: CaseResult, attempts: list[CaseResult]) -> CaseResult:
    """Add earlier attempts to a result, with their messages; a pass after a failure is flaky."""
    if not attempts:
        return result
    earlier = [
        f"attempt {past.attempt} was {past.verdict}: {message}"
        for past in attempts
        for message in past.messages or ("",)
    ]
    return dataclasses.replace(
        result.with_messages(after=tuple(earlier)),
        verdict=Verdict.FLAKY if result.verdict is Verdict.PASSED else result.verdict,
        log=result.log or attempts[-1].log,
        earlier=tuple(_attempt(past) for past in attempts),
    )


def _attempt(past: CaseResult) -> Attempt:
    reason = failure_text.headline(past)
    return Attempt(verdict=past.verdict, seconds=past.seconds, reason=reason)
