"""A scalar of Triton's interpreter is a Python number with any version of numpy."""

import operator

import numpy as np
import pytest
import triton.language as tl
from triton.runtime import interpreter

from moe.kernels import launch
from moe.kernels.interpreter_scalars import indices

pytestmark = pytest.mark.skipif(not launch.INTERPRETED, reason="kernels are compiled here")


def refuses(tensor, scope):
    """As Triton 3.6 does with numpy 2.4."""

    def index(self):
        raise TypeError("only 0-dimensional arrays can be converted to Python scalars")

    scope.set_attr(tensor, "__index__", index)
    scope.set_attr(tensor, "__str__", lambda self: "patched")


@pytest.fixture
def scalar():
    handle = interpreter.TensorHandle(np.array([7], dtype=np.int64), tl.int64)
    return tl.tensor(handle, tl.int64)


@pytest.mark.parametrize("patch", [refuses, interpreter._patch_lang_tensor])
def test_an_array_of_one_element_is_a_number(scalar, patch):
    scope = interpreter._LangPatchScope()
    indices(patch)(tl.tensor, scope)
    try:
        assert operator.index(scalar) == 7
        assert list(range(0, scalar, 3)) == [0, 3, 6]
        assert (str(scalar) == "patched") == (patch is refuses), "the rest is Triton's"
    finally:
        scope.restore()
    with pytest.raises(TypeError):
        operator.index(scalar)
