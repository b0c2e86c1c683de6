"""Check from the output whether weights and activations were quantized.

Let q be the quantized reference and q_w the same with unquantized weights, which is the output of
a layer that forgot to quantize them. With e = y - q and d = q_w - q, the projection
<e, d> / |d|^2 is 0 for a correct layer and 1 for that one; t is 1 minus it. Beyond one half, the
output is closer to the layer that did not quantize; if the declared noise cannot explain that
either, the output is wrong even if it is within tolerance. The same is done with unquantized
inputs, intermediates, activations (inputs and intermediates), and with everything unquantized.

Of an output that is wrong already, only a close fit says so: any large error has some projection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.checks.check import Check, Observation
from harness.fixtures.layer_call import judged_rows, rows_of
from harness.record.result import Finding
from moe.reference.output_values import OutputValues

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from harness.fixtures.layer_call import Call
    from harness.fixtures.layer_under_test import Subject
    from moe.reference.scale_error import Scale
    from moe.spec import Scheme

MOST_ROWS = 2  # each costs five more evaluations of the reference
EXACT_FIT = 0.1  # of the squared error: a variant that leaves less than this is the actual layer
NEAR = 0.1  # by how much t may be below 0 where something was not quantized
SIGMAS = 6.0  # standard deviations of a projection that a correct layer may have


class _PlainWeights(OutputValues):
    def weights(self, e: int) -> tuple[Tensor, Tensor]:
        w13, w2 = self.expert(e)
        return w13.to(self.dtype), w2.to(self.dtype)


class _PlainInput(OutputValues):
    def quantize_input(self, x: Tensor, scale: Tensor | None) -> Tensor:
        del scale
        return x


class _PlainIntermediate(OutputValues):
    def quantize_values(self, h: Tensor, shared: Scale | None) -> Tensor:
        del shared
        return h


class _PlainActivations(_PlainInput, _PlainIntermediate):
    pass


class _PlainBoth(_PlainWeights, _PlainActivations):
    pass


VARIANTS = {
    "weights": _PlainWeights,
    "inputs": _PlainInput,
    "intermediates": _PlainIntermediate,
    "activations": _PlainActivations,
    "weights and activations": _PlainBoth,
}


@dataclass(frozen=True, kw_only=True)
class Projection:
    """Project the error on the change that one variant without quantization makes.

    unquantized: a key of VARIANTS. t: 1 if it was quantized, 0 if not. sigma: standard deviation
    of t by noise. flips: change of t if all codes near a rounding tie flipped in this direction.
    residual: squared distance to the variant's output over that to the quantized reference.
    """

    unquantized: str
    t: float
    sigma: float
    flips: float
    residual: float

    @property
    def noise_limit(self) -> float:
        """Return the largest 1 - t that noise explains for a correct layer."""
        return SIGMAS * self.sigma + self.flips

    @property
    def fits(self) -> bool:
        """Tell whether the variant leaves next to nothing of the error."""
        return self.residual < EXACT_FIT

    @property
    def is_missing(self) -> bool:
        """Tell whether the quantization is missing: the variant fits and noise does not explain it.

        Flips of codes may be large enough to explain it, but random flips would not reproduce the
        variant's values. So an exact fit counts even within the limit of the flips. With t far
        from 0 and 1 something else is wrong, a scale for example: not quantizing gives 0.
        """
        if self.fits:
            return 1 - self.t > SIGMAS * self.sigma
        is_near_zero = -NEAR - self.noise_limit < self.t < 0.5
        return self.residual < 0.5 and is_near_zero and 1 - self.t > self.noise_limit


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Check the first call."""
    subject, first = observation.subject, observation.calls[:1]
    measured = projections(subject, first)
    if any(observation.has_failed(call) for call in first):
        measured = tuple(projection for projection in measured if projection.fits)
    text = message(measured, subject.case.quant)
    return () if text is None else (Finding(check=CHECK.name, text=text),)


def variants_of(scheme: Scheme) -> tuple[str, ...]:
    """Return the keys of VARIANTS that leave unquantized what the scheme quantizes."""
    weights, activations = scheme.weights != "model", scheme.activations != "model"
    if weights and activations:
        return tuple(VARIANTS)
    if weights:
        return ("weights",)
    return ("inputs", "intermediates", "activations") if activations else ()


def projections(subject: Subject, calls: Sequence[Call]) -> tuple[Projection, ...]:
    """Return the projection of each variant that changes the reference; () without tokens.

    Uses MOST_ROWS rows of each call, all together. Not collective.
    """
    rows = [judged_rows(call.tokens)[:MOST_ROWS] for call in calls]
    kinds = variants_of(subject.case.layer_spec.scheme)
    projections = (_projection(subject, calls, rows, kind) for kind in kinds)
    return tuple(projection for projection in projections if projection is not None)


def _projection(
    subject: Subject, calls: Sequence[Call], rows: Sequence[Tensor], kind: str
) -> Projection | None:
    variant = subject.reference.remade(VARIANTS[kind])
    inner = size = error = noise = flips_limit = 0.0
    for call, selected in zip(calls, rows, strict=True):
        if len(selected) == 0:
            continue
        expected = rows_of(call.answer, selected, slice(0, 0))
        error_rows = call.output.out[selected].to(expected.out.dtype) - expected.out
        change = _variant(variant, call, selected) - expected.out
        weight = change.square().sum(dim=1)
        inner += float((error_rows * change).sum())
        size += float(weight.sum())
        error += float(error_rows.square().sum())
        noise += float((expected.variance * weight).sum()) / change.shape[1]
        flips_limit += float((expected.flips * weight).sqrt().sum())
    if size == 0 or size <= 1e-10 * error:
        return None
    return Projection(
        unquantized=kind,
        t=1 - inner / size,
        sigma=noise**0.5 / size,
        flips=flips_limit / size,
        residual=1 - (2 * inner - size) / max(error, 1e-38),
    )


def _variant(variant: OutputValues, call: Call, rows: Tensor) -> Tensor:
    routing, shared = call.output.routing, call.answer.shared
    return variant.outputs(
        *(call.tokens.x[rows], routing.topk_ids[rows], routing.topk_weights[rows], call.answer),
        shared=None if shared is None else shared[rows],
        adapters=call.tokens.adapters_of(rows),
    )


def message(projections: Sequence[Projection], quant: str) -> str | None:
    """Return which quantization is missing: the variant that fits best; None if none is.

    quant: the method that requires it.
    """
    missing = [projection for projection in projections if projection.is_missing]
    if not missing:
        return None
    best = min(missing, key=lambda projection: projection.residual)
    evidence = f"noise explains at most {best.noise_limit:.2g}"
    if best.fits:
        evidence = f"leaving them unquantized explains all but {best.residual:.2g} of its error"
    return (
        f"not_quantized: {best.unquantized} were not quantized, although quant `{quant}` requires "
        f"it (projection t = {best.t:.3g}: 1 if quantized, 0 if not; {evidence})"
    )


CHECK = Check(name="quantization_applied", run=findings, phase="projection")
