"""Find with which other expert's weights the rows of an expert were multiplied.

A row has so many columns that no other expert's product is like it by chance: one row is enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.checks.stages_products import biases_of, operands, sharded
from harness.diagnosis.stage_terms import of_product
from harness.record.diagnosis import NamedCause

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from harness.checks.stage_record import Handed
    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors

NAME = "which_expert"
WRONG_ROWS, RIGHT_ROWS = 64, 16  # at most
MOST_ELEMENTS = 2**23  # of all experts' matrices
FEWEST_COLUMNS = 16
MOST_LISTED = 6


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """What a rank multiplies with rows of an expert. w: [C, I]. bias: [C], or None."""

    w: Tensor
    bias: Tensor | None = None

    def of(self, x: Tensor) -> Tensor:
        """Return the product [n, C] of rows x [n, I]."""
        return x @ self.w.T if self.bias is None else x @ self.w.T + self.bias


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of one expert. numbers: [n] of the stage's. x: [n, I], what is multiplied."""

    expert: int
    numbers: Tensor
    x: Tensor


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield which experts' rows a wrong product holds with the weights of others."""
    product = of_product(evidence, WRONG_ROWS, RIGHT_ROWS)
    if product is None or product[0].stage == "weighted":
        return
    errors, handed = product
    parts = operands(handed, errors.stage, errors.numbers)
    count = handed.layer_spec.held_experts
    if not parts or count * parts[0][2].numel() > MOST_ELEMENTS:
        return
    ids = handed.ids.flatten()[errors.numbers]
    rows = [
        Rows(expert=int(handed.global_ids(ids[numbers[0]])), numbers=numbers, x=x)
        for numbers, x, _ in parts
    ]
    table = {expert: _matrix(handed, errors.stage, expert) for expert in range(count)}
    yield from which_expert(errors, rows, table)


def _matrix(handed: Handed, stage: str, expert: int) -> Matrix:
    number = 0 if stage == "gemm1" else 1
    w = sharded(handed, *handed.subject.reference.weights(expert))[number]
    return Matrix(w=w, bias=biases_of(handed, expert)[number])


def which_expert(
    errors: StageErrors, rows: Sequence[Rows], table: Mapping[int, Matrix]
) -> list[NamedCause]:
    """Return the statement, or none, of all wrong experts. table: of every expert of the layer.

    All wrong rows must be those of one other expert each, or of one for each expert.
    """
    wrong = errors.is_wrong.any(dim=1)
    if errors.actual.shape[1] < FEWEST_COLUMNS or not bool(errors.actual.isfinite().all()):
        return []
    source, predicted = dict[int, int](), errors.expected.clone()
    for one in rows:
        if not bool(wrong[one.numbers].any()):
            continue
        nearest = _nearest(errors, one, table)
        if nearest == one.expert:
            return []
        source[one.expert] = nearest
        change = table[nearest].of(one.x) - table[one.expert].of(one.x)
        predicted[one.numbers] += change
    fit = errors.fitting(predicted) if source else None
    if fit is None or fit[1]:
        return []
    text = f"{errors.place} {_text(source)}"
    return [NamedCause(name=NAME, cause=text, residual=fit[0])]


def _nearest(errors: StageErrors, one: Rows, table: Mapping[int, Matrix]) -> int:
    """Return the expert whose product is nearest to what an expert's rows hold."""
    held = errors.actual[one.numbers] - errors.expected[one.numbers] + table[one.expert].of(one.x)
    left = {e: float((matrix.of(one.x) - held).norm()) for e, matrix in table.items()}
    return min(left, key=lambda e: (left[e], e))


def _text(source: dict[int, int]) -> str:
    """Return whose weights the wrong experts' rows were multiplied with."""
    pairs = [f"{own} with those of {other}" for own, other in source.items()]
    more = f" and {len(pairs) - MOST_LISTED} more" if len(pairs) > MOST_LISTED else ""
    return (
        "rows are multiplied with the weights of another expert: rows of expert "
        f"{', '.join(pairs[:MOST_LISTED])}{more}"
    )
