"""Read the scalars of Triton's interpreter with any version of numpy.

The interpreter keeps a scalar as an array of one element. Triton 3.6 makes a Python number of it
by `int(array)`, which numpy refuses from 2.4 on unless the array has no dimensions.
"""

from __future__ import annotations

from typing import Any


def indices(patch: Any) -> Any:
    """Return `_patch_lang_tensor` with an `__index__` that takes arrays of one element."""

    def patch_tensor(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    return patch_tensor
