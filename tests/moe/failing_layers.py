"""What ranks do in the tests of a layer that fails on one of them, at different places."""

from __future__ import annotations

import dataclasses
import itertools
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch

from harness.fixtures.layer_under_test import local_tokens, make_subject
from harness.fixtures.rank_context import RankContext
from harness.matrix.case import MoETestConfig
from moe import failed_call
from moe.spec import ANY, MemberSpec, Needs
from tests.extra_rows.gather_and_sum.member import GatherAndSum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from harness.fixtures.tensors import Tokens
    from moe.layer import FusedMoE

Layer = Any  # a FusedMoE whose parts are replaced


class GathersAndSums(GatherAndSum):
    """The example of an all2all backend, named by its path."""

    row = MemberSpec(name="copied", target=f"{__name__}:GathersAndSums", needs=Needs(dtypes=ANY))


def all_fail(
    cases: Sequence[tuple[str, str]], case_ids: Sequence[str]
) -> tuple[list[tuple[object, bool]], list[list[tuple[object, bool]]]]:
    """Return `fails_at` of each (case id, place), and `points_fail` of each case id."""
    return [fails_at(*case) for case in cases], [points_fail(case_id) for case_id in case_ids]


def fails_at(case_id: str, place: str) -> tuple[object, bool]:
    """Make three calls, of which the second fails on rank 1 at a place of `PLACES`.

    Return of the second call this rank's error, or which of its rows are NaN and whether the others
    are right; and whether the first and third call give what they give if none fails.
    """
    case, rank = MoETestConfig.from_id(case_id), int(os.environ["RANK"])
    context = RankContext(
        rank=rank, world_size=case.world_size, device=torch.device("cpu"), transport="gloo"
    )
    counts = (case.m,) * case.dp_size
    calls = [local_tokens(case, context, counts, start) for start in (0, case.m, 2 * case.m)]
    with torch.inference_mode():
        sound = make_subject(case, context).layer
        expected = [called(sound, tokens) for tokens in calls]
        layer = make_subject(case, context).layer
        first = called(layer, calls[0])
        failing = PLACES[place](layer, calls[1]) if rank == 1 else lambda: called(layer, calls[1])
        told = outcome(failing, expected[1])
        third = called(layer, calls[2])
    return told, torch.equal(first, expected[0]) and torch.equal(third, expected[2])


def points_fail(case_id: str) -> list[tuple[object, bool]]:
    """Let the work of rank 1 fail at each point between the exchanges of a call, one call each.

    Return of each call this rank's error, or which of its rows are NaN, the others being right; and
    whether the call after it is right.
    """
    case, rank = MoETestConfig.from_id(case_id), int(os.environ["RANK"])
    context = RankContext(
        rank=rank, world_size=case.world_size, device=torch.device("cpu"), transport="gloo"
    )
    tokens = local_tokens(case, context, (case.m,) * case.dp_size, 0)
    with torch.inference_mode():
        layer = make_subject(case, context).layer
        with failing_point(None) as points:
            expected = called(layer, tokens)
        told = []
        for point in range(next(points)):
            with failing_point(point if rank == 1 else None):
                of_point = outcome(lambda: called(layer, tokens), expected)
            told.append((of_point, torch.equal(called(layer, tokens), expected)))
    return told


@contextmanager
def failing_point(point: int | None) -> Iterator[Iterator[int]]:
    """Let this rank's work fail at a point; None: only count. Yield the counter of points."""
    real, numbers = failed_call.Postponed.made, itertools.count()

    def counted(self: object, make: Callable[[], object], otherwise: Callable[[], object]):
        number = next(numbers)

        def failing() -> object:
            raise RuntimeError(f"point {number} failed")

        return real(self, failing if number == point else make, otherwise)

    with mock.patch.object(failed_call.Postponed, "made", counted):
        yield numbers


def outcome(call: Callable[[], torch.Tensor], expected: torch.Tensor) -> object:
    """Return a call's error with its notes, or its rows that are NaN; others must be right."""
    try:
        out = call()
    except (RuntimeError, ValueError) as error:
        return f"{error} {getattr(error, '__notes__', [])}"
    lost = out.isnan().any(dim=1)
    torch.testing.assert_close(out[~lost], expected[~lost])
    return lost.nonzero().flatten().tolist()


def called(layer: FusedMoE, tokens: Tokens) -> torch.Tensor:
    return layer.forward(tokens.x, tokens.logits, adapters=tokens.adapters).out


def once_broken(owner: object, name: str, passes: int = 0) -> Callable[[], None]:
    """Let the method fail once, after it was called so often; return what mends it."""
    real, number = getattr(owner, name), itertools.count()

    def failing(*args: object, **options: object) -> object:
        if next(number) == passes:
            raise RuntimeError(f"{name} failed")
        return real(*args, **options)

    object.__setattr__(owner, name, failing)
    return lambda: object.__setattr__(owner, name, real)


def broken(part: Callable[[Layer], object], name: str, passes: int = 0):
    """Return the second call, in which a part of the layer fails."""

    def plant(layer: FusedMoE, tokens: Tokens) -> Callable[[], torch.Tensor]:
        def call() -> torch.Tensor:
            mend = once_broken(part(layer), name, passes)
            try:
                return called(layer, tokens)
            finally:
                mend()

        return call

    return plant


def with_other_x(change: Callable[[torch.Tensor], torch.Tensor]):
    """Return the second call, in which this rank passes another x."""

    def plant(layer: FusedMoE, tokens: Tokens) -> Callable[[], torch.Tensor]:
        return lambda: called(layer, dataclasses.replace(tokens, x=change(tokens.x)))

    return plant


PLACES: dict[str, Callable[[Layer, Tokens], Callable[[], torch.Tensor]]] = {
    "experts": broken(lambda layer: layer.kernel.experts, "run"),
    "second chunk": broken(lambda layer: layer.kernel.experts, "run", passes=1),
    "router": broken(lambda layer: layer.kernel, "route"),
    "replicas": broken(lambda layer: layer.kernel.slots.replicas, "route"),
    "shared": broken(lambda layer: layer.shared, "forward"),
    "quantization": broken(lambda layer: layer.kernel.quant, "quantize_input"),
    "dtype": with_other_x(lambda x: x.double()),
    "width": with_other_x(lambda x: x[:, :-1]),
}
