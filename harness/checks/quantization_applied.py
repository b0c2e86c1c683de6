"""Whether quantization happened, of weights and of activations, read from the output itself.

Let q be the quantized reference and q_w the same with weights left as they were: a layer that
forgot to quantize them gives q_w. With e = y - q and d = q_w - q the share <e, d> / |d|^2 is 0
for a right layer and 1 for that one; t is one less it. Beyond one half the output is nearer to
the layer that did not quantize than to the one that did, and if the declared noise cannot
explain so much, it is no right output whatever its bound says. The same with inputs left as they
were, with intermediates, with both of them, and with all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.checks.check import Check, Observation
from harness.fixtures.layer_call import chosen_rows, rows_of
from harness.record.result import Finding
from moe.reference.layer import BaselineSiluAndMul

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from harness.fixtures.layer_call import Call
    from harness.fixtures.layer_under_test import Subject
    from moe.reference.error_propagation import Noisy, Scale
    from moe.spec import Scheme

MOST_ROWS = 2  # each asks for the whole reference five times more
AS_GOOD_AS_IT = 0.1  # of an output's squared error: what is left where it is such a layer's
SURE = 6.0  # standard deviations of a share that a right layer may have


class _PlainWeights(BaselineSiluAndMul):
    def weights(self, e: int) -> tuple[Tensor, Tensor]:
        w13, w2 = self.expert(e)
        return w13.to(self.dtype), w2.to(self.dtype)


class _PlainInput(BaselineSiluAndMul):
    def quantize_input(self, x: Tensor, scale: Tensor | None) -> Tensor:
        del scale
        return x


class _PlainIntermediate(BaselineSiluAndMul):
    def quantize_intermediate(self, h: Noisy, shared: Scale | None) -> Noisy:
        del shared
        return h


class _PlainActivations(_PlainInput, _PlainIntermediate):
    pass


class _PlainBoth(_PlainWeights, _PlainActivations):
    pass


WAYS = {
    "weights": _PlainWeights,
    "inputs": _PlainInput,
    "intermediates": _PlainIntermediate,
    "activations": _PlainActivations,
    "weights and activations": _PlainBoth,
}


@dataclass(frozen=True, kw_only=True)
class Share:
    """t: 1 when it was quantized, 0 when not.

    sigma: how far noise of random direction may move t. flips: how far, if all codes within reach
    of a tie did flip, and all in this one direction. left: the distance of the output from the
    layer that did not quantize over that from the one that did, squared.
    """

    what: str
    t: float
    sigma: float
    flips: float
    left: float

    @property
    def explained(self) -> float:
        """The most of 1 - t that a right layer may have."""
        return SURE * self.sigma + self.flips

    @property
    def is_missing(self) -> bool:
        """Half of the difference is explained by it, and noise cannot explain as much.

        Where flips could: they flip where they will, and not, of thousands, to the very values
        of a layer that did not quantize. So the output must be that layer's, or as good as it.
        """
        if self.left < AS_GOOD_AS_IT:
            return 1 - self.t > SURE * self.sigma
        return self.left < 0.5 and self.t < 0.5 and 1 - self.t > self.explained


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Look at the first call."""
    text = complaint(shares(observation.subject, observation.calls[:1]))
    return () if text is None else (Finding(check=CHECK.name, text=text),)


def ways(scheme: Scheme) -> tuple[str, ...]:
    """Return the keys of WAYS that leave unquantized what the scheme quantizes."""
    weights, activations = scheme.weights != "model", scheme.activations != "model"
    if weights and activations:
        return tuple(WAYS)
    if weights:
        return ("weights",)
    return ("inputs", "intermediates", "activations") if activations else ()


def shares(subject: Subject, calls: Sequence[Call]) -> tuple[Share, ...]:
    """One for each way in which the reference would be another; () without tokens.

    Over MOST_ROWS rows of each call together. Not collective.
    """
    rows = [chosen_rows(len(call.tokens.x), call.tokens.x.device)[:MOST_ROWS] for call in calls]
    names = ways(subject.case.problem.scheme)
    found = (_share(subject, calls, rows, what) for what in names)
    return tuple(share for share in found if share is not None)


def _share(
    subject: Subject, calls: Sequence[Call], rows: Sequence[Tensor], what: str
) -> Share | None:
    variant = subject.reference.remade(WAYS[what])
    along = length = error = noise = sure = 0.0
    for call, some in zip(calls, rows, strict=True):
        if len(some) == 0:
            continue
        right = rows_of(call.answer, some, slice(0, 0))
        e = call.output.out[some].to(right.out.dtype) - right.out
        d = _variant(variant, call, some) - right.out
        each = d.square().sum(dim=1)
        along += float((e * d).sum())
        length += float(each.sum())
        error += float(e.square().sum())
        noise += float((right.variance * each).sum()) / d.shape[1]
        sure += float((right.flips * each).sqrt().sum())
    if length == 0 or length <= 1e-10 * error:
        return None
    return Share(
        what=what,
        t=1 - along / length,
        sigma=noise**0.5 / length,
        flips=sure / length,
        left=1 - (2 * along - length) / max(error, 1e-38),
    )


def _variant(variant: BaselineSiluAndMul, call: Call, some: Tensor) -> Tensor:
    routing = call.output.routing
    ids, weights = routing.topk_ids[some], routing.topk_weights[some]
    return variant(call.tokens.x[some], ids, weights, like=call.answer).out


def complaint(found: Sequence[Share]) -> str | None:
    """What was not quantized: of all that fit, the one that leaves the least unexplained."""
    missing = [share for share in found if share.is_missing]
    if not missing:
        return None
    best = min(missing, key=lambda share: share.left)
    sure = f"noise explains at most {best.explained:.2g} of it"
    if best.left < AS_GOOD_AS_IT:
        sure = f"the output is such a layer's but for {best.left:.2g} of its squared error"
    return (
        f"not_quantized: {best.what} were not quantized, as the scheme says; t = {best.t:.3g} "
        f"(1 when they are, 0 when not), and {sure}"
    )


CHECK = Check(name="quantization_applied", run=findings, phase="projection")
