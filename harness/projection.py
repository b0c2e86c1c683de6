"""Whether quantization happened, of weights and of activations, read from the output itself.

Let q be the quantized reference and q_w the same with weights left as they were: a layer that
forgot to quantize them gives q_w. With e = y - q and d = q_w - q the share <e, d> / |d|^2 is 0
for a right layer and 1 for that one; t is one less it. Beyond one half the output is nearer to
the layer that did not quantize than to the one that did, and if the declared noise cannot
explain so much, it is no right output whatever its bound says. The same with activations left
as they were, and with both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.scene import chosen_rows, rows_of
from moe.reference.layer import BaselineSiluAndMul

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from harness.scene import Call
    from harness.subject import Subject
    from moe.reference.noise import Noisy, Scale

MOST_ROWS = 2  # each asks for the whole reference three times more
SURE = 6.0  # standard deviations of a share that a right layer may have


class _PlainWeights(BaselineSiluAndMul):
    def weights(self, e: int) -> tuple[Tensor, Tensor]:
        w13, w2 = self.expert(e)
        return w13.to(self.dtype), w2.to(self.dtype)


class _PlainActivations(BaselineSiluAndMul):
    def quantize_input(self, x: Tensor, scale: Tensor | None) -> Tensor:
        del scale
        return x

    def quantize_intermediate(self, h: Noisy, shared: Scale | None) -> Noisy:
        del shared
        return h


class _PlainBoth(_PlainWeights, _PlainActivations):
    pass


WAYS = {
    "weights": _PlainWeights,
    "activations": _PlainActivations,
    "weights and activations": _PlainBoth,
}


@dataclass(frozen=True, kw_only=True)
class Share:
    """t: 1 when it was quantized, 0 when not. sigma: how far noise may move t; 1 or more: blind.

    left: the distance of the output from the layer that did not quantize over that from the one
    that did, squared.
    """

    what: str
    t: float
    sigma: float
    left: float

    @property
    def is_missing(self) -> bool:
        """Half of the difference is explained by it, and noise cannot explain as much."""
        return self.left < 0.5 and self.t < 0.5 and 1 - self.t > SURE * self.sigma


def shares(subject: Subject, calls: Sequence[Call]) -> tuple[Share, ...]:
    """One for each of WAYS in which the reference would be another; () without tokens.

    Over MOST_ROWS rows of each call together. Not collective.
    """
    scheme = subject.case.problem.scheme
    if scheme.activations == "model" and scheme.weights == "model":
        return ()
    rows = [chosen_rows(len(call.tokens.x), call.tokens.x.device)[:MOST_ROWS] for call in calls]
    found = (_share(subject, calls, rows, what) for what in WAYS)
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
    # Flips may all point along d, other noise has a random direction.
    sigma = noise**0.5 / length + sure / length / SURE
    return Share(
        what=what,
        t=1 - along / length,
        sigma=sigma,
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
    return (
        f"not_quantized: {best.what} were not quantized, as the scheme says; t = {best.t:.3g} "
        f"(1 when they are, 0 when not), and noise explains at most {SURE * best.sigma:.2g} of it"
    )
