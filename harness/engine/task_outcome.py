"""How a task ended in a gang, and the verdict that follows for a case. Torch-free."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from harness.engine import crash_evidence
from harness.engine.messages import Done, Failed
from harness.formatting import ranks_text
from harness.record.result import CaseResult, Finding, RankResult, Verdict, merge
from harness.record.run_folder import log_name

if TYPE_CHECKING:
    from pathlib import Path


class Ended(Enum):
    """How a task ended."""

    ANSWERED = auto()  # every rank said done or failed
    STUCK = auto()  # a rank failed, and others did not come back within the grace
    CRASHED = auto()  # a rank's process ended
    HUNG = auto()  # over the time limit
    NOT_BEGUN = auto()  # ranks ended before they began: an earlier task's doing, not this one's
    LOST = auto()  # the engine's own process ended: not the task's fault


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One task's end, before anyone calls it a verdict. All dicts are by rank."""

    task: str
    ended: Ended
    seconds: float
    answers: dict[int, Done | Failed]
    exits: dict[int, int]  # as os.waitstatus_to_exitcode gives it
    said: dict[int, tuple[str, float]]  # the last thing each rank said, and seconds since then
    stacks: dict[int, str]  # of ranks that were stuck
    logs: dict[int, Path]  # valid until the gang is dead

    @property
    def is_unclear(self) -> bool:
        """Whether a rank cannot tell if this task or an earlier one altered it."""
        return any(isinstance(answer, Done) and answer.unclear for answer in self.answers.values())


_VERDICTS = {
    Ended.STUCK: Verdict.ERROR,
    Ended.CRASHED: Verdict.CRASHED,
    Ended.HUNG: Verdict.HUNG,
    Ended.NOT_BEGUN: Verdict.INFRA,
    Ended.LOST: Verdict.INFRA,
}


def case_result(outcome: Outcome) -> CaseResult:
    """The result of a case; `log` is not set yet."""
    results = [
        RankResult.from_json(answer.result) if isinstance(answer, Done) else _raised(rank, answer)
        for rank, answer in outcome.answers.items()
    ]
    world_size = len(outcome.logs)
    if outcome.ended is Ended.ANSWERED:
        return merge(outcome.task, world_size, results, outcome.seconds)
    # World 0: a rank that said nothing is described by `rank_words`, not by `merge`.
    base = CaseResult(case_id=outcome.task, verdict=Verdict.INFRA, seconds=outcome.seconds)
    said = merge(outcome.task, 0, results, outcome.seconds) if results else base
    words, stuck = tuple(rank_words(outcome).values()), outcome.ended is Ended.STUCK
    answered = _answered(results)
    told = (
        said.with_messages(after=words + answered)
        if stuck
        else said.with_messages(before=words + answered)
    )
    return dataclasses.replace(
        told,
        verdict=_VERDICTS[outcome.ended],
        reason=outcome.ended.name.lower(),
        ranks=_rank_verdicts(outcome, results),
    )


def _answered(results: list[RankResult]) -> tuple[str, ...]:
    """The verdicts of the ranks that came to one: who is not named hung or ended."""
    ranks: dict[Verdict, list[int]] = {}
    for result in results:
        ranks.setdefault(result.verdict, []).append(result.rank)
    return tuple(f"{ranks_text(who)}: {verdict}" for verdict, who in ranks.items())


def _raised(rank: int, answer: Failed) -> RankResult:
    """The result of a rank whose task ended by an exception."""
    finding = Finding(check="run", verdict=Verdict.ERROR, text=answer.traceback)
    return RankResult(rank=rank, verdict=Verdict.ERROR, findings=(finding,))


def _rank_verdicts(outcome: Outcome, results: list[RankResult]) -> dict[str, str]:
    ranks = {str(rank): "silent" for rank in outcome.logs}
    ranks |= {str(result.rank): str(result.verdict) for result in results}
    return ranks | {str(rank): str(Verdict.CRASHED) for rank in outcome.exits}


def rank_words(outcome: Outcome) -> dict[int, str]:
    """What happened to each rank that ended or did not answer, in words, with evidence."""
    words = {rank: _exit_words(outcome, rank) for rank in outcome.exits}
    for rank in outcome.logs.keys() - outcome.answers.keys() - outcome.exits.keys():
        words[rank] = _stuck_words(outcome, rank)
    return {rank: f"rank {rank}: {words[rank]}" for rank in sorted(words)}


def _exit_words(outcome: Outcome, rank: int) -> str:
    text = f"{crash_evidence.how_ended(outcome.exits[rank])}{_last_said(outcome, rank)}"
    log = crash_evidence.read(outcome.logs[rank])
    if crash_evidence.has_stack(log):  # faulthandler's, at a fatal signal
        return f"{text}; innermost frames:\n{crash_evidence.main_stack(log)}"
    return f"{text}; end of its log:\n{crash_evidence.last_lines(log)}"


def _stuck_words(outcome: Outcome, rank: int) -> str:
    text = f"still running after {outcome.seconds:.1f} s{_last_said(outcome, rank)}"
    if rank in outcome.stacks:
        return f"{text}; innermost frames:\n{crash_evidence.main_stack(outcome.stacks[rank])}"
    if outcome.ended in (Ended.HUNG, Ended.STUCK):
        return f"{text}; it gave no stack"
    return f"{text}, when it was ended with the gang"


def _last_said(outcome: Outcome, rank: int) -> str:
    if rank not in outcome.said:
        return ", had not begun"
    text, seconds = outcome.said[rank]
    return f" (last said {text!r}, {seconds:.1f} s before)"


def write_case_log(
    outcome: Outcome, result: CaseResult, said: list[str], folder: Path
) -> CaseResult:
    """The result with its log written into `folder`; a log that cannot be written is no failure.

    said: the result's message, which begins the log.
    """
    sections = {"result": "\n".join([str(result.verdict), *said])}
    for rank, path in outcome.logs.items():
        sections[f"rank {rank}"] = crash_evidence.read(path)
    name = log_name(result.case_id, result.attempt)
    gang_folder = next(iter(outcome.logs.values())).parent
    try:
        crash_evidence.write_log(folder, name, sections)
        crash_evidence.keep_flights(gang_folder, folder, name.removesuffix(".log"))
    except OSError as error:
        return result.with_messages(after=(f"its log could not be written: {error}",))
    return dataclasses.replace(result, log=name)
