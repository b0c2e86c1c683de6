"""Say what failed cases of a run have in common: words of their ids, and what was found.

A mistake in one place fails many cases, and each prints its own lines. What they share, and passed
cases do not, is where to look first. Torch-free.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from typing import TYPE_CHECKING

from harness.record.result import Verdict
from harness.report.failure_text import headline

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from harness.record.result import CaseResult

FEWEST = 3  # failed cases of which something is said
FAILED = (Verdict.FAILED, Verdict.ERROR, Verdict.CRASHED, Verdict.HUNG)
MOST_WORDS = 3  # of ids, together
MOST_FINDINGS = 3
WIDTH = 150  # of a finding
EVERYWHERE = "pattern: all rows"  # says nothing of several cases
_NUMBER = re.compile(r"\d[\d.e+-]*")


def lines(results: Iterable[CaseResult]) -> list[str]:
    """Return the lines; none for fewer than FEWEST failed cases."""
    ended = [r for r in results if r.verdict in (*FAILED, Verdict.PASSED)]
    failed = [r for r in ended if r.verdict in FAILED]
    if len(failed) < FEWEST:
        return []
    return [*_words_line([r.case_id for r in ended], failed), *_findings(failed)]


def _words_line(ids: Sequence[str], failed: Sequence[CaseResult]) -> Iterator[str]:
    """Yield which words of their ids all failed cases share, if this tells them from others."""
    failed_ids = {r.case_id for r in failed}
    words, matching = shared_words(ids, failed_ids)
    if not words:
        return
    named = " and ".join(f"`{word}`" for word in words)
    if matching == len(failed_ids):
        yield f"failed are all {matching} cases with {named}, and no other"
    else:
        yield f"all {len(failed_ids)} failed cases have {named}, as have {matching} cases that ran"


def shared_words(ids: Iterable[str], failed: set[str]) -> tuple[tuple[str, ...], int]:
    """Return words of ids that all failed cases have, and how many cases of all have them.

    Of the words that the failed cases share those are taken, up to MOST_WORDS, that leave out the
    most other cases; none if they leave out fewer than half of the cases that passed.
    """
    left = {case_id: set(case_id.split("-")) for case_id in ids}
    shared = set.intersection(*(left[case_id] for case_id in failed))
    others, chosen = len(left) - len(failed), list[str]()
    while len(left) > len(failed) and len(chosen) < MOST_WORDS:
        counts = Counter(word for words in left.values() for word in words & shared)
        word = min(sorted(shared), key=lambda word: counts[word], default=None)
        if word is None or counts[word] == len(left):
            break
        chosen.append(word)
        left = {case_id: words for case_id, words in left.items() if word in words}
    is_telling = 2 * (len(left) - len(failed)) <= others
    return (tuple(chosen), len(left)) if is_telling else ((), 0)


def _findings(failed: Sequence[CaseResult]) -> Iterator[str]:
    """Yield what was found in several cases, but for numbers, the most frequent first."""
    headlines: dict[str, list[str]] = {}
    for result in failed:
        text = headline(result)
        if text == EVERYWHERE:
            continue
        headlines.setdefault(_NUMBER.sub("#", text), []).append(text)
    groups = sorted(headlines.values(), key=len, reverse=True)
    for texts in [texts for texts in groups if len(texts) > 1][:MOST_FINDINGS]:
        which = "all" if len(texts) == len(failed) else f"{len(texts)} of {len(failed)}"
        yield f"in {which}: {textwrap.shorten(texts[0], WIDTH, placeholder=' ...')}"
