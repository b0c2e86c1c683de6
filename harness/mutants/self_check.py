"""The self-proof: with a case's own data, would its check reject each wrong answer?

A member that the check would pass makes the case vacuous; one that is no wrong answer here, by
the case's configuration, is not applicable and says why. The check is compare's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks.element_and_bias import look, measure
from harness.checks.output import bound, margins
from harness.mutants import FEW, HYPOTHESES, Hypothesis, NotApplicable
from harness.record.proof import Outcome, Proof
from moe.types import TORCH_DTYPE

if TYPE_CHECKING:
    from torch import Tensor

    from harness.mutants.sample import Scene

MEMBERS = tuple(h for h in HYPOTHESES if h.battery)


def prove(scene: Scene) -> tuple[Proof, ...]:
    """Return each member's proof, in the table's order; none where a rank has no tokens."""
    if scene.tokens == 0:
        return ()
    proofs = _proofs(scene, [h for h in MEMBERS if not h.dear])
    dear = [h for h in MEMBERS if h.dear]
    proofs |= _proofs(scene.first(1), dear)
    unsure = [h for h in dear if proofs[h.name].outcome is Outcome.MISSED]
    if unsure and len(scene.rows) > 1:
        proofs |= _proofs(scene.first(FEW), unsure)
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
            proofs[h.name] = Proof(name=h.name, outcome=Outcome.NOT_APPLICABLE, why=str(reason))
    if tried:
        caught = rejected(torch.stack(outputs), scene).tolist()
        for h, rejects in zip(tried, caught, strict=True):
            proofs[h.name] = _proof(h, rejects=rejects)
    return proofs


def _proof(h: Hypothesis, *, rejects: bool) -> Proof:
    if rejects:
        return Proof(name=h.name, outcome=Outcome.CAUGHT)
    return Proof(name=h.name, outcome=Outcome.MISSED, why=h.cure)


def rejected(outputs: Tensor, scene: Scene) -> Tensor:
    """[M, r, K] outputs for the scene's rows -> [M] bool, whether compare would reject each.

    They are rounded to the model dtype, as an output would be. Where the scene holds some of the
    call's rows only, all rows together count only for a mistake that befalls each of them.
    """
    answer = scene.answer
    got = outputs.to(TORCH_DTYPE[scene.case.dtype]).to(answer.out.dtype)
    distance = (got - answer.out).square().sum(dim=2)
    each, every = margins(answer.variance, answer.out.shape[1])
    beyond = (distance > bound(answer, each).square()).any(dim=1)
    together = distance.sum(dim=1) > bound(answer, every).square().sum()
    whole = torch.ones_like(together)
    if scene.tokens > len(scene.rows):
        whole = (outputs != answer.out).any(dim=2).all(dim=1)
    caught = beyond | together & whole | ~distance.isfinite().all(dim=1)
    for i in (~caught).nonzero().flatten().tolist():
        caught[i] = _finely(got[i], scene, every=bool(whole[i]))
    return caught


def _finely(got: Tensor, scene: Scene, *, every: bool) -> bool:
    """[r, K]: whether an element is too far off, or, where every row counts, their direction."""
    answer, dtype = scene.answer, TORCH_DTYPE[scene.case.dtype]
    fine = look(answer, *measure(got, answer.out, dtype))
    return fine.elements > 1 or (every and fine.direction > 1)
