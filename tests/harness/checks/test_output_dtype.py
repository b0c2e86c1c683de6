"""An output in another dtype is a finding, however right its values."""

from __future__ import annotations

import pytest

from harness.checks import output_dtype
from tests.harness.checks.observed import observation, with_output

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_the_layer_s_dtype_is_no_finding(dtype):
    assert output_dtype.findings(observation(dtype=dtype)) == ()


def test_another_dtype_is_named_with_its_call():
    seen = observation()
    seen = with_output(seen, 1, out=seen.calls[1].output.out.float())
    (finding,) = output_dtype.findings(seen)
    assert finding.call == 1
    text = "output: dtype torch.float32, expected torch.bfloat16"
    assert finding.text == f"second call with 3 tokens: {text}"
