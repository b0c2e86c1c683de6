"""Keep what is computed from a weight matrix alone for as long as the matrix lives.

The matrices of a reference are read by each of its calls, in several cases, while the tokens
differ. A matrix that is changed in place is computed again, unless it was made in inference mode,
where torch does not count changes: the harness compares checksums of the matrices that it keeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.utils.weak import WeakTensorKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from torch import Tensor

_kept = WeakTensorKeyDictionary()


def kept(matrix: Tensor, name: Hashable, make: Callable[[], Tensor]) -> Tensor:
    """Return what `make` returned the first time for this tensor (not its values) and this name.

    The result must not be `matrix` itself, which would then never be freed.
    """
    if matrix not in _kept:
        _kept[matrix] = {}
    by_name: dict[Hashable, Tensor] = _kept[matrix]
    version = 0 if matrix.is_inference() else matrix._version
    if (version, name) not in by_name:
        by_name[version, name] = make()
    return by_name[version, name]


def row_squares(matrix: Tensor) -> Tensor:
    """Return [O], the squared length of each row of a weight matrix [O, I]."""
    return kept(matrix, "row squares", lambda: matrix.square().sum(dim=1))
