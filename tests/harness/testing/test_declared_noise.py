"""What a caller of `harness.assert_close` declares is checked before any tensor is."""

from __future__ import annotations

import pytest
import torch

from harness import assert_close

X = torch.randn(4, 64, generator=torch.Generator().manual_seed(5))
TENSORS = {
    "floats": X,
    "integers": torch.arange(6),
    "bools": torch.ones(3, dtype=torch.bool),
    "empty": X[:0],
}
BAD = [
    ({"terms": -5}, ValueError, "terms is -5; .* at least 1, or None for no sum"),
    ({"terms": 0}, ValueError, "terms is 0; "),
    ({"terms": 10**400}, ValueError, r"terms is 1000.*0000; .* below 2\*\*63"),
    ({"terms": 2.5}, TypeError, "terms is 2.5, of type float; .* pass an int, or None"),
    ({"terms": float("nan")}, TypeError, "terms is nan, of type float; "),
    ({"terms": True}, TypeError, "terms is True, of type bool; "),
    ({"terms": "8"}, TypeError, "terms is '8', of type str; "),
    ({"terms": torch.tensor(8)}, TypeError, r"terms is tensor\(8\), of type Tensor; "),
    ({"accumulate": "foo"}, ValueError, "accumulate is 'foo'; it must be one of f32, bf16, fp16"),
    ({"accumulate": ["f32"]}, TypeError, r"accumulate is \['f32'\], of type list; .* one of f32"),
    ({"accumulate": "bf16"}, ValueError, "accumulate is 'bf16' where terms is None; .* terms=..."),
    ({"noise": "x"}, TypeError, "noise is 'x', of type str; .* pass a float"),
    ({"noise": True}, TypeError, "noise is True, of type bool; "),
    ({"noise": None}, TypeError, "noise is None, of type NoneType; "),
    ({"noise": torch.tensor(0.1)}, TypeError, r"noise is tensor\(0.1000\), of type Tensor; "),
    ({"noise": -0.1}, ValueError, "noise is -0.1; .* at least 0 and below 1"),
    ({"noise": float("nan")}, ValueError, "noise is nan; "),
    ({"rel_rms": "0.1"}, TypeError, "rel_rms is '0.1', of type str; .* pass a float"),
    ({"rel_rms": float("inf")}, ValueError, "rel_rms is inf; .* at least 0 and below 1"),
    ({"rel_rms": 0.1, "terms": 8}, ValueError, "rel_rms is 0.1 beside terms=8, noise=0.0; it .*"),
    ({"rel_rms": 0.1, "noise": 0.01}, ValueError, "in place of .*: pass one or the other"),
    ({"dtype": "bf16"}, TypeError, "dtype is 'bf16', of type str; .* pass a torch.dtype"),
]


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize(("options", "error", "text"), BAD)
def test_a_bad_declaration_is_refused_whatever_the_tensors(kind, options, error, text):
    with pytest.raises(error, match=text):
        assert_close(TENSORS[kind], TENSORS[kind], **options)


def test_numbers_of_numpy_are_numbers():
    numpy = pytest.importorskip("numpy")
    assert_close(X.bfloat16(), X, terms=numpy.int64(64), noise=numpy.float32(0.001))


def test_rel_rms_is_the_largest_of_a_row():
    one = X.clone()
    one[2] *= 1.02
    assert_close(one, X, rel_rms=0.021)
    with pytest.raises(AssertionError, match=r"1 of 4 rows \(2\)"):
        assert_close(one, X, rel_rms=0.019)
    with pytest.raises(AssertionError, match=r"rms error of 0\.019 in a row; set by rel_rms"):
        assert_close(one, X, rel_rms=0.019)


def test_the_dtype_of_the_output_can_be_asked_for():
    assert_close(X.bfloat16(), X, dtype=torch.bfloat16)
    wrong = [X, X.to(torch.float8_e4m3fn), X.int(), X.to(torch.complex64), X[:0]]
    for actual in wrong:
        with pytest.raises(AssertionError) as caught:
            assert_close(actual, X, dtype=torch.bfloat16, name="gate")
        assert str(caught.value) == (
            f"gate: its dtype is {actual.dtype}; dtype= requires torch.bfloat16"
        )
    mask = X > 0
    assert_close(mask.int(), mask)
    with pytest.raises(AssertionError, match=r"torch\.int32; dtype= requires torch\.bool"):
        assert_close(mask.int(), mask, dtype=torch.bool)


@pytest.mark.filterwarnings("ignore")
def test_tensors_that_keep_their_values_elsewhere_are_refused():
    from torch.masked import masked_tensor
    from torch.nested import nested_tensor

    masked = masked_tensor(torch.ones(3), torch.tensor([True, False, True]))
    nested = nested_tensor([torch.ones(2), torch.ones(3)])
    jagged = nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    for odd, text in ((masked, "MaskedTensor"), (nested, "nested"), (jagged, "NestedTensor")):
        for sides in ((odd, odd), (odd, torch.ones(3))):
            with pytest.raises(TypeError, match=f"actual is .*{text}.*; pass a dense"):
                assert_close(*sides)
        with pytest.raises(TypeError, match=f"expected is .*{text}"):
            assert_close(torch.ones(3), odd)
    assert_close(torch.nn.Parameter(X), X)
