"""Find one rounding that explains a router whose row states none, in all calls and on all ranks.

A router computes alike in each call and on each rank. Calls or ranks that are right under different
customary roundings only are not explained by any: they are told with what explains each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.checks import agreement
from harness.record.formatting import numbers_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from harness.checks.check import Observation
    from harness.fixtures.layer_call import Call
    from moe.reference.routing import RoutingTruth

WAY_OUT = "the row must state one `rounding`, by which all are then judged"


@dataclass(frozen=True, kw_only=True)
class Explained:
    """Hold by which truth this rank's calls are judged.

    texts: its messages about each call. differing: how calls or ranks round, if each of them is
    right under some customary rounding, but all under none; else None.
    """

    truth: RoutingTruth
    texts: list[list[str]]
    differing: str | None = None


def explained(
    observation: Observation,
    truths: Sequence[RoutingTruth],
    names: Sequence[str],
    messages: Callable[[Call, RoutingTruth], list[str]],
) -> Explained:
    """Return the first truth that explains all calls on all ranks; if none does, see below.

    Then it is the first that explains this rank's calls, or the first of all. names: of the truths,
    to show. Collective if there are several.
    """
    calls, world_size = observation.calls, observation.context.world_size
    if len(truths) == 1:
        return Explained(truth=truths[0], texts=[messages(call, truths[0]) for call in calls])
    try:
        texts = [[messages(call, truth) for call in calls] for truth in truths]
    except Exception:
        agreement.of_all_ranks([False] * len(truths) * len(calls), world_size)  # others wait
        raise
    is_right = [not text for of_truth in texts for text in of_truth]
    of_ranks = agreement.of_all_ranks(is_right, world_size)
    right = [_by_part(of_ranks, number, len(calls)) for number in range(len(truths))]
    chosen = next((n for n, parts in enumerate(right) if all(parts.values())), None)
    if chosen is not None:
        return Explained(truth=truths[chosen], texts=texts[chosen])
    local = next((n for n, of_truth in enumerate(texts) if not any(of_truth)), 0)
    return Explained(truth=truths[local], texts=texts[local], differing=_differing(right, names))


def _by_part(
    of_ranks: Sequence[Sequence[bool]], number: int, calls: int
) -> dict[tuple[int, int], bool]:
    """Return (rank, call) -> whether it is right under the truth of this number."""
    return {
        (rank, call): flags[number * calls + call]
        for rank, flags in enumerate(of_ranks)
        for call in range(calls)
    }


def _differing(right: Sequence[dict[tuple[int, int], bool]], names: Sequence[str]) -> str | None:
    """Return which roundings explain which parts; None if some part is right under none.

    The rounding that explains most is told first, then what explains most of the rest.
    """
    left = set(right[0])
    clauses: list[str] = []
    while left:
        counts = [sum(parts[part] for part in left) for parts in right]
        widest = counts.index(max(counts))
        if not counts[widest]:
            return None
        explains = {part for part in left if right[widest][part]}
        left -= explains
        clauses.append(
            f"{names[widest]} explains {', '.join(_parts_text(explains, right[widest]))}"
        )
    return f"no customary rounding explains all calls and ranks: {'; '.join(clauses)}; {WAY_OUT}"


def _parts_text(parts: set[tuple[int, int]], every: dict[tuple[int, int], bool]) -> Iterator[str]:
    """Yield each rank's calls, counted from 1; of a single rank the calls alone."""
    is_alone = len({rank for rank, _ in every}) == 1
    for rank in sorted({rank for rank, _ in parts}):
        calls = sorted(call + 1 for of_rank, call in parts if of_rank == rank)
        text = f"call{'s' if len(calls) > 1 else ''} {numbers_text(calls, max_runs=len(calls))}"
        yield text if is_alone else f"{text} of rank {rank}"
