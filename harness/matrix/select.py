"""Read `select:` of a block: which points of the product of its axes become cases."""

from __future__ import annotations

import re
from dataclasses import dataclass

WORDS = "full, pairwise, triples or random(n, seed)"
PATTERN = r"^(full|pairwise|triples|random\( *[1-9][0-9]{0,5} *, *[0-9]{1,9} *\))$"
STRENGTHS = {"pairwise": 2, "triples": 3}


@dataclass(frozen=True, kw_only=True)
class Select:
    """Hold what `select` asks for. No strength and no count: the full product."""

    strength: int | None = None  # of how many axes all values are combined
    count: int | None = None  # of cases drawn at random
    seed: int = 0

    @property
    def is_full(self) -> bool:
        """Return whether all points are selected."""
        return self.strength is None and self.count is None


def parse(text: str) -> Select:
    """Return what a text asks for. Raises ValueError with the words that there are."""
    if not re.match(PATTERN, text):
        example = "; for example random(100, 1)" if text.startswith("random") else ""
        raise ValueError(f"must be {WORDS}, not {text!r}{example}")
    if text in STRENGTHS:
        return Select(strength=STRENGTHS[text])
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    return Select(count=numbers[0], seed=numbers[1]) if numbers else Select()
