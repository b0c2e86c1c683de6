"""Find which tokens came twice to a rank, or never, although they have an expert there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks.stages_collectives import COUNTS
from harness.diagnosis.conditions import Fact, splitting
from harness.diagnosis.stage_terms import handed_of
from harness.record.diagnosis import NamedCause

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence

NAME = "which_counts"
FEWEST = 2  # tokens with several experts here that each follow the rule
ENDS = ("other tokens", "the first token of each rank", "the last token of each rank")
WORDS = {0: "never came", 2: "came twice", 3: "came three times"}


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield the rule by which tokens came to this rank."""
    wrong = evidence.stage
    if wrong is None or wrong.noun != COUNTS or evidence.subject is None:
        return
    handed = handed_of(evidence)
    times, rows = wrong.actual[:, 0].long(), wrong.labels["rows"]
    experts_here = wrong.labels["experts here"]
    facts = facts_of_tokens(rows, handed.sizes, handed.ranks) if handed.by_token else []
    text = which_counts(times, experts_here, facts)
    if text is not None:
        yield NamedCause(name=NAME, cause=f"in stage {wrong.stage} {text}", residual=0.0)


def which_counts(times: Tensor, experts_here: Tensor, facts: Sequence[Fact]) -> str | None:
    """Return the rule in words, or None.

    times: [n], how often each token came that has an expert here. experts_here: [n], how many it
    has. facts: of each token, [n].
    """
    if torch.equal(times, experts_here) and int((experts_here > 1).sum()) >= FEWEST:
        return "each token came as often as it has experts on this rank, not once"
    number = Fact(
        one="tokens whose number of experts on this rank is",
        many="tokens whose numbers of experts on this rank are",
        values=experts_here.double(),
    )
    clauses = []
    for count in sorted(set(times.tolist()) - {1}):
        conditions = splitting([number, *facts], times == count, times != count)
        if not conditions:
            return None
        clauses.append(f"{conditions[0].text} {WORDS.get(count, f'came {count} times')}")
    return ", and ".join(clauses) or None


def facts_of_tokens(rows: Tensor, sizes: Sequence[int], ranks: Sequence[int]) -> list[Fact]:
    """Return what is known of tokens by their numbers in rank order, [n] each.

    rows: [n]. sizes: how many tokens each of these ranks has.
    """
    counts = torch.tensor(sizes, device=rows.device)
    starts = counts.cumsum(0) - counts
    sender = torch.searchsorted(starts + counts, rows, right=True)
    place, last = rows - starts[sender], counts[sender] - 1
    end = torch.where(place == last, 2, torch.where(place == 0, 1, 0))
    of_ranks = torch.tensor(ranks, device=rows.device)[sender]
    return [
        Fact(one="", many="", values=end.double(), names=ENDS),
        Fact(one="the tokens of rank", many="the tokens of ranks", values=of_ranks.double()),
        Fact(one="token", many="tokens", values=rows.double()),
        Fact(
            one="the token of each rank with number",
            many="the tokens of each rank with numbers",
            values=place.double(),
        ),
    ]
