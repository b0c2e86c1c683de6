"""Check a case's power with its own data: would its checks reject each wrong answer?

A wrong answer that would pass makes the case vacuous; one that the case's configuration rules out
is not applicable, with the reason. The criterion is that of `harness.checks.output`.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import torch

from harness.checks.alternatives import BEYOND
from harness.checks.element_and_bias import measure, tolerance_used
from harness.checks.output import factors_of, row_tolerance
from harness.fixtures.exact_tensors import settled
from harness.mutants import FEW, HYPOTHESES, Hypothesis, NotApplicable
from harness.record.proof import Outcome, Proof
from moe.types import TORCH_DTYPE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from harness.mutants.sample import Scene
    from moe.numerics import Numerics
    from moe.reference.joined_pairs import Products
    from moe.reference.result import Answer

MEMBERS = tuple(h for h in HYPOTHESES if h.battery)


def prove(scene: Scene) -> tuple[Proof, ...]:
    """Return each wrong answer's proof, in table order; () if the rank has no tokens.

    A mistake inside the experts is computed for one row, then for `FEW`, then for all sampled ones,
    until it is rejected: with zero experts, few of the first rows may show it.
    """
    if len(scene.rows) == 0:
        return ()
    proofs = _proofs(scene, [h for h in MEMBERS if not h.costly])
    untried = [h for h in MEMBERS if h.costly]
    may_apply = bool(scene.case.zero_experts or scene.case.adapters)  # to some of the rows
    undecided = {Outcome.MISSED, *([Outcome.NOT_APPLICABLE] if may_apply else [])}
    tried = 0
    for count in (1, FEW, len(scene.rows)):
        if untried and tried < len(scene.rows):
            proofs |= _proofs(dataclasses.replace(scene.first(count), few=count), untried)
            untried = [h for h in untried if proofs[h.name].outcome in undecided]
            tried = count
    return tuple(proofs[h.name] for h in MEMBERS)


def _proofs(scene: Scene, members: list[Hypothesis]) -> dict[str, Proof]:
    proofs: dict[str, Proof] = {}
    outputs: list[Tensor] = []
    tried: list[Hypothesis] = []
    for h in members:
        try:
            outputs.append(h.compute(scene))
            tried.append(h)
        except NotApplicable as reason:
            proofs[h.name] = Proof(
                name=h.name, outcome=Outcome.NOT_APPLICABLE, explanation=str(reason)
            )
    if tried:
        caught = rejected(torch.stack(outputs), scene).tolist()
        for h, rejects in zip(tried, caught, strict=True):
            proofs[h.name] = _proof(h, rejects=rejects)
    return proofs


def _proof(h: Hypothesis, *, rejects: bool) -> Proof:
    if rejects:
        return Proof(name=h.name, outcome=Outcome.CAUGHT)
    return Proof(name=h.name, outcome=Outcome.MISSED, explanation=h.remedy)


def rejected(outputs: Tensor, scene: Scene) -> Tensor:
    """Return [M] bool: whether the checks would reject each of the outputs [M, r, K].

    If the row states no numerics, or no roundings of a routing that it hides, a wrong answer is
    rejected if every alternative rejects it.
    """
    caught = _rejected_by(scene.answer, outputs, scene)
    if scene.candidates is None or not (scene.candidates.several or scene.other_weights):
        return caught
    unsure = (caught & ~_is_far(outputs, scene)).nonzero().flatten()
    for answer in _other_answers(scene) if len(unsure) else ():
        caught[unsure] &= _rejected_by(answer, outputs[unsure], scene)
    return caught


def _is_far(outputs: Tensor, scene: Scene) -> Tensor:
    """Return [M] bool: outputs in which a row is beyond every alternative's tolerance."""
    assert scene.candidates is not None
    is_rejected = torch.ones(len(outputs), dtype=torch.bool, device=outputs.device)
    for numerics, weights in _under(scene, scene.candidates.balls):
        answer = answer_under(scene, numerics, weights=weights)
        distance = (outputs - answer.out).square().sum(dim=2)
        is_rejected &= ~(distance <= (BEYOND * row_tolerance(answer)).square()).all(dim=1)
    return is_rejected


def _other_answers(scene: Scene) -> Iterator[Answer]:
    """Yield the answer of each alternative but the one that the scene has."""
    assert scene.candidates is not None
    first_products: Products = {}
    for numerics, weights in _under(scene, scene.candidates.alternatives):
        if numerics != scene.reference.numerics or weights is not scene.topk_weights:
            yield answer_under(scene, numerics, first_products, weights=weights)


def _under(scene: Scene, tried: Sequence[Numerics]) -> Iterator[tuple[Numerics, Tensor]]:
    """Yield each of the numerics with each of the router weights [r, k] that may be right."""
    return itertools.product(tried, (scene.topk_weights, *scene.other_weights))


def answer_under(
    scene: Scene,
    numerics: Numerics,
    first_products: Products | None = None,
    *,
    weights: Tensor | None = None,
) -> Answer:
    """Return the answer for the scene's rows under other numerics.

    first_products: of these rows, shared by all numerics. weights: [r, k] other router weights.
    """
    reference = scene.reference.with_numerics(numerics)
    routing = scene.topk_ids, scene.topk_weights if weights is None else weights
    answer = reference(
        scene.x, *routing, like=scene.answer, products=first_products, adapters=scene.adapters
    )
    return settled(scene.case, answer)


def _rejected_by(answer: Answer, outputs: Tensor, scene: Scene) -> Tensor:
    """Return [M] bool: whether the checks reject each of the outputs [M, r, K] under an answer.

    Outputs are rounded to the model dtype first. If the scene samples the call's rows, the total
    error counts only for mistakes that change every row.
    """
    rounded = outputs.to(TORCH_DTYPE[scene.case.dtype]).to(answer.out.dtype)
    distance = (rounded - answer.out).square().sum(dim=2)
    row_factor, total_factor = factors_of(answer)
    row_exceeds = (distance > row_tolerance(answer, row_factor).square()).any(dim=1)
    total_exceeds = distance.sum(dim=1) > row_tolerance(answer, total_factor).square().sum()
    affects_all = torch.ones_like(total_exceeds)
    if scene.tokens > len(scene.rows):
        affects_all = (outputs != scene.answer.out).any(dim=2).all(dim=1)
    caught = row_exceeds | total_exceeds & affects_all | ~distance.isfinite().all(dim=1)
    for i in (~caught).nonzero().flatten().tolist():
        finely = _finely_rejected(rounded[i], answer, scene.case.dtype, bool(affects_all[i]))
        caught[i] = finely
    return caught


def _finely_rejected(output: Tensor, answer: Answer, dtype: str, all_rows: bool) -> bool:
    """Tell whether an element of output [r, K], or with all_rows the bias, exceeds its limit."""
    fine = tolerance_used(answer, *measure(output, answer.out, TORCH_DTYPE[dtype]))
    return fine.worst_element_used > 1 or (all_rows and fine.bias_used > 1)
