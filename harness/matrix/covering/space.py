"""`Space`: the points of one block, as rows of a covering model, and back."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.matrix.case import FILE_KEYS, MoETestConfig
from harness.matrix.case_list import Product
from harness.matrix.covering.model import Model, Refused, all_targets
from harness.matrix.expand import block_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from harness.matrix.covering.model import Factors, Row
    from harness.matrix.schema import Axes, Submodel

    # Return None for a case that can run; else the reason code, and the axes that decide alone.
    Refuse = Callable[[MoETestConfig], tuple[str, frozenset[str]] | None]

_KEY_OF = {axis.name: key for key, axes in FILE_KEYS.items() for axis in axes}


@dataclass(frozen=True, kw_only=True)
class Space:
    """Hold the values of a block. A factor is a key of the file with at least two of them."""

    factors: dict[str, tuple[dict[str, Any], ...]]  # key -> the fields that each value sets
    fixed: dict[str, Any]  # the other fields

    @classmethod
    def of(cls, block: Axes, defaults: Axes) -> Space:
        """Return the space of a block; values that the block leaves out are in `defaults`.

        Raises CaseError for a value that no axis has: each is checked here, once.
        """
        values = block_values(block, defaults)
        product = Product(values.values())
        distinct = {
            key: tuple({tuple(fields.items()): fields for fields in choices}.values())
            for key, choices in zip(values, product.choices, strict=True)
        }
        factors = {key: choices for key, choices in distinct.items() if len(choices) > 1}
        fixed = {n: value for n, value in product.base.items() if _KEY_OF[n] not in factors}
        return cls(factors=factors, fixed=fixed)

    @property
    def size(self) -> int:
        """Return the number of points."""
        return math.prod(map(len, self.factors.values()))

    def cases(self) -> Iterator[MoETestConfig]:
        """Yield every point."""
        return map(self.case, itertools.product(*map(range, map(len, self.factors.values()))))

    def case(self, row: Row) -> MoETestConfig:
        """Return the point that a row stands for."""
        fields = self.fixed.copy()
        for choices, value in zip(self.factors.values(), row, strict=True):
            fields.update(choices[value])
        return MoETestConfig.of_checked(fields)

    def reading(self, axes: Iterable[str]) -> Factors:
        """Return the factors whose values set some of these axes."""
        keys = {_KEY_OF[axis] for axis in axes}
        return tuple(i for i, key in enumerate(self.factors) if key in keys)

    def values_of(self, case: MoETestConfig) -> tuple[int | None, ...]:
        """Return for each factor the index of the value that a case has, None if it has another.

        A case that differs from this space in a fixed field has none of its values.
        """
        if not _has(case, self.fixed):
            return (None,) * len(self.factors)
        return tuple(
            next((i for i, fields in enumerate(choices) if _has(case, fields)), None)
            for choices in self.factors.values()
        )

    def model(self, targets: tuple[Factors, ...], refuse: Refuse) -> Model:
        """Return the model whose rows are the points. refuse: why a case cannot run."""
        names = tuple(self.factors)
        positions = {axis: names.index(key) for axis, key in _KEY_OF.items() if key in names}

        def refused(row: Row) -> Refused | None:
            reason = refuse(self.case(row))
            if reason is None:
                return None
            code, axes = reason
            factors = frozenset(positions[axis] for axis in axes if axis in positions)
            return Refused(code=code, factors=factors)

        return Model(
            names=names,
            values=tuple(tuple(map(_text, choices)) for choices in self.factors.values()),
            targets=targets,
            refuse=refused,
        )

    def targets(self, strength: int, submodels: Iterable[Submodel] = ()) -> tuple[Factors, ...]:
        """Return the sets of factors to combine; a submodel combines more of its own axes."""
        of_submodels = itertools.chain.from_iterable(map(self.of_submodel, submodels))
        return tuple(dict.fromkeys((*all_targets(len(self.factors), strength), *of_submodels)))

    def of_submodel(self, submodel: Submodel) -> tuple[Factors, ...]:
        """Return the sets of factors that a submodel combines."""
        names = list(self.factors)
        places = sorted(names.index(axis) for axis in set(submodel.axes) if axis in names)
        return tuple(itertools.combinations(places, min(submodel.strength, len(places))))


def _has(case: MoETestConfig, fields: dict[str, Any]) -> bool:
    return all(getattr(case, name) == value for name, value in fields.items())


def _text(fields: dict[str, Any]) -> str:
    """Return the value of a factor as text: `bf16`, `8x256x128`, `dp:2+ep`."""
    axes = FILE_KEYS[_KEY_OF[next(iter(fields))]]
    if len(axes) == 1 or axes[0].required:
        return "x".join(_word(value) for value in fields.values())
    words = [
        axis.token if axis.kind == "bool" else f"{axis.token}:{fields[axis.name]}"
        for axis in axes
        if fields[axis.name] != axis.default
    ]
    return "+".join(words) or "one rank"


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
