"""Split rows of the first wrong stage into the terms that they sum.

A product sums over its inner dimension, in blocks, and so do the shared experts; `combine` over the
slots of a token, `finalize` and `out` over ranks, and `out` over zero experts, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks.stage_record import handed_out
from harness.checks.stages_combine import router_weights
from harness.checks.stages_products import adapter_terms, block_terms
from harness.diagnosis.conditions import Fact
from harness.diagnosis.output_terms import LEAST_COLUMNS, place_among_equal
from harness.diagnosis.patterns import Mismatch, of_columns
from harness.diagnosis.terms import Terms
from harness.diagnosis.wrong_rows import spread
from harness.matrix.exactness import is_bitwise

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from harness.checks.stage_bound import WrongStage
    from harness.checks.stage_record import Handed
    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors

ENDS = ("other rows", "the first row of each rank's", "the last row of each rank's")
PASSED = ("the sum over ranks", "zero experts")
ADAPTED = ("the experts' own matrices", "the adapters")
PRODUCTS = ("gemm1", "gemm2", "weighted")
BLOCKS = (256, 128, 64, 32, 16, 8)  # of the inner dimension, the largest first
WRONG_ROWS, RIGHT_ROWS = 64, 32  # at most
LEAST = 2.0**-20  # tolerance, as a part of a row: of sums of float32


def terms_of(evidence: Evidence) -> Iterator[Terms]:
    """Yield the rows of the first wrong stage as sums; nothing if it is no sum."""
    wrong, subject = evidence.stage, evidence.subject
    if wrong is None or subject is None or wrong.noun != "elements":
        return
    elements = departing(wrong)
    rows = _rows(wrong, elements)
    columns = Mismatch(rows=elements.any(dim=1), elements=elements)
    part = columns.columns if of_columns(columns) else None
    width = wrong.actual.shape[1] if part is None else int(part.sum())
    handed = handed_of(evidence)
    for noun, values, facts in _splits(handed, wrong, rows):
        if LEAST_COLUMNS * values.shape[1] <= width and values.shape[1] > 1:
            terms = _terms(wrong, elements, rows, noun, values, facts)
            yield terms if part is None else terms.in_columns(part)


def handed_of(evidence: Evidence) -> Handed:
    """Return what the members of the call recorded. The evidence has a subject."""
    subject = evidence.subject
    assert subject is not None, "stages are read of a subject"
    exact = is_bitwise(subject.case)
    return handed_out(subject, evidence.call, evidence.scene.rank, exact=exact)


def of_product(evidence: Evidence, wrong: int, right: int) -> tuple[StageErrors, Handed] | None:
    """Return at most so many wrong and right rows of a wrong product; None of anything else."""
    errors = evidence.errors
    if errors is None or errors.stage not in PRODUCTS or errors.noun != "elements":
        return None
    return errors.sampled(wrong, right), handed_of(evidence)


def row_factors(handed: Handed, errors: StageErrors) -> Tensor:
    """Return [R, 1], by what rows of a product are multiplied: router weights, if `weighted`."""
    if errors.stage != "weighted":
        return torch.ones_like(errors.actual[:, :1])
    return router_weights(handed, errors.numbers)[:, None]


def departing(wrong: WrongStage) -> Tensor:
    """Return [R, C] bool, the elements that are beyond their tolerance."""
    expected = wrong.expected
    error = (wrong.actual - expected.value).abs()
    return ~(error <= expected.tolerance) & expected.value.isfinite()


def _rows(wrong: WrongStage, elements: Tensor) -> Tensor:
    """Return [r], some wrong rows and some right ones, of which all that is expected is known."""
    is_known = wrong.expected.value.isfinite().all(dim=1)
    is_wrong = elements.any(dim=1)
    chosen = [
        spread((is_known & which).nonzero().flatten(), count)
        for which, count in ((is_wrong, WRONG_ROWS), (~is_wrong, RIGHT_ROWS))
    ]
    return torch.cat(chosen)


def _splits(
    handed: Handed, wrong: WrongStage, rows: Tensor
) -> Iterator[tuple[str, Tensor, list[Fact]]]:
    """Yield what the terms are called, their values [r, P, C], and facts of each, [r * P]."""
    numbers = wrong.labels["rows"][rows]
    if wrong.stage in PRODUCTS:
        adapted = adapter_terms(handed, wrong.stage, numbers)
        if adapted is not None:
            own = wrong.expected.value[rows] - adapted
            values = torch.stack([own, adapted], dim=1)
            part = Fact(one="", many="", values=numbers, names=ADAPTED)
            facts = [_counting(part, values), *_repeated(facts_of(handed, numbers), 2)]
            yield "parts", values, facts
        for block in BLOCKS:
            terms = block_terms(handed, wrong.stage, numbers, block)
            if terms is not None:
                name = "k" if wrong.stage == "gemm1" else "n"
                inner = Fact(one=name, many=name, values=numbers, unit=block)
                facts = _repeated(facts_of(handed, numbers), terms.shape[1])
                yield "products", terms, [_counting(inner, terms), *facts]
    elif wrong.stage == "shared":
        yield from _of_shared(handed, numbers)
    elif wrong.expected.terms is None:
        return
    elif wrong.expected.over == "zero experts":
        values = wrong.expected.terms[rows]
        yield "shares", values, _facts_of_zero(numbers)
    elif wrong.expected.over == "slots":
        values = wrong.expected.terms[rows]
        is_combine = wrong.stage == "combine"
        facts_of_slots = _slot_facts if is_combine else _facts_of_own
        yield "shares", values, facts_of_slots(handed, numbers)
    else:
        values = wrong.expected.terms[rows]
        group = "gather" if wrong.stage == "finalize" else "tp"
        ranks = handed.subject.case.layout.group(group, handed.rank)
        row = Fact(one="row", many="rows", values=numbers.double())
        facts = [_of_ranks(ranks, values), _ends(numbers, values)]
        yield "sums", values, [*facts, *_repeated([row], values.shape[1])]


def _of_shared(handed: Handed, rows: Tensor) -> Iterator[tuple[str, Tensor, list[Fact]]]:
    """Yield the shared experts' part of these rows, split into blocks of intermediate columns."""
    truth, layout = handed.subject.reference.shared, handed.subject.case.layout
    if truth is None or truth.spans_rows:
        return
    x = handed.call.tokens.x[rows].float()
    tp_rank = 0 if truth.shards == 1 else layout.tp_rank(handed.rank)
    for block in BLOCKS:
        terms = truth.column_terms(x, tp_rank, block)
        inner = Fact(one="n", many="n", values=rows, unit=block)
        row = Fact(one="row", many="rows", values=rows.double())
        yield "products", terms, [_counting(inner, terms), *_repeated([row], terms.shape[1])]


def _counting(fact: Fact, values: Tensor) -> Fact:
    """Return the fact with the number of each term."""
    return fact.with_values(_numbered(values[:, 0, 0], values.shape[1]))


def _numbered(rows: Tensor, count: int) -> Tensor:
    """Return 0, 1, ..., count - 1 for each of these rows, [r * count]."""
    return torch.arange(count, device=rows.device).double().repeat(len(rows))


def _of_ranks(ranks: Sequence[int], values: Tensor) -> Fact:
    numbers = torch.tensor(ranks, device=values.device).double()
    return Fact(one="rank", many="ranks", values=numbers.repeat(len(values)))


def _ends(rows: Tensor, values: Tensor) -> Fact:
    """Return which sums are of the first or last row of those that a rank adds to, [r * P]."""
    has_term = (values != 0).any(dim=2)
    at = torch.where(has_term, rows[:, None].double(), torch.nan)
    first = at.nan_to_num(nan=torch.inf).amin(dim=0)
    last = at.nan_to_num(nan=-torch.inf).amax(dim=0)
    end = torch.where(at == last, 2.0, torch.where(at == first, 1.0, 0.0))
    end = torch.where(has_term, end, torch.nan)
    return Fact(one="", many="", values=end.flatten(), names=ENDS)


def _repeated(facts: Sequence[Fact], count: int) -> list[Fact]:
    """Return the facts of rows as facts of each of a row's `count` terms."""
    return [fact.with_values(fact.values.repeat_interleave(count)) for fact in facts]


def facts_of(handed: Handed, flat: Tensor) -> list[Fact]:
    """Return what is known of these flat rows, [r] each."""
    ids = handed.ids.flatten()
    places = place_among_equal(ids)[flat].double()
    facts = [Fact(one="expert", many="experts", values=handed.global_ids(ids[flat]).double())]
    if handed.top_k > 1:
        slots = (flat % handed.top_k).double()
        facts.append(Fact(one="slot", many="slots", values=slots))
    if handed.has("adapters"):
        adapters = handed.stages["adapters"].value[flat // handed.top_k].double()
        values = torch.where(adapters < 0, torch.nan, adapters)
        facts.append(Fact(one="adapter", many="adapters", values=values))
    facts.append(Fact(one="gathered row", many="gathered rows", values=flat // handed.top_k))
    facts.append(Fact(one="row * k + slot", many="numbers row * k + slot", values=flat.double()))
    facts.append(
        Fact(
            one="its expert's row",
            many="its expert's rows",
            values=places,
            from_on="rows beyond the first {} of an expert",
            below="the first {} rows of each expert",
        )
    )
    return [fact.with_values(fact.values.double()) for fact in facts]


def _slot_facts(handed: Handed, tokens: Tensor) -> list[Fact]:
    """Return what is known of the slots of these gathered rows, [r * k] each."""
    slots = torch.arange(handed.top_k, device=tokens.device)
    flat = (tokens[:, None] * handed.top_k + slots).flatten()
    is_here = handed.ids.flatten()[flat] >= 0
    return [
        fact.with_values(torch.where(is_here, fact.values, torch.nan))
        for fact in facts_of(handed, flat)
    ]


def _facts_of_own(handed: Handed, tokens: Tensor) -> list[Fact]:
    """Return what is known of the slots of this rank's tokens, [r * k] each."""
    ids = handed.call.output.routing.topk_ids[tokens].double()
    slots = torch.arange(ids.shape[1], device=ids.device).double().repeat(len(tokens))
    experts = torch.where(ids < 0, torch.nan, ids).flatten()
    row = tokens.double().repeat_interleave(ids.shape[1])
    return [
        Fact(one="slot", many="slots", values=slots),
        Fact(one="expert", many="experts", values=experts),
        Fact(one="row", many="rows", values=row),
    ]


def _facts_of_zero(rows: Tensor) -> list[Fact]:
    """Return what is known of the sum over ranks and of the zero experts' shares, [r * 2]."""
    kind = Fact(one="", many="", values=rows, names=PASSED)
    row = Fact(one="row", many="rows", values=rows.double())
    return [kind.with_values(_numbered(rows, 2)), *_repeated([row], 2)]


def _terms(
    wrong: WrongStage,
    elements: Tensor,
    rows: Tensor,
    noun: str,
    values: Tensor,
    facts: list[Fact],
) -> Terms:
    expected = wrong.expected.value[rows]
    tolerance = wrong.expected.tolerance.expand_as(wrong.expected.value)[rows].norm(dim=1)
    return Terms(
        noun=noun,
        actual=wrong.actual[rows],
        expected=expected,
        tolerance=torch.maximum(tolerance, LEAST * expected.norm(dim=1)),
        is_wrong=elements.any(dim=1)[rows],
        values=values,
        facts=tuple(facts),
        stage=wrong.stage,
        numbers=wrong.labels["rows"][rows] if wrong.stage == "combine" else None,
    )
