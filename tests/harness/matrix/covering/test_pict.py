"""The text has PICT's grammar: parameters, submodels, constraints."""

from harness.matrix.covering.model import Model
from harness.matrix.covering.pict import pict

MODEL = Model(
    names=("top_k", "quant", "exact"),
    values=(("1", "2"), ("none", "fp8"), ("false", "true")),
    targets=(),
)


def test_parameters_submodels_and_constraints():
    text = pict(MODEL, [(1, 3), (0, 2, 5), (4,)], [(("top_k", "quant"), 3)], comments=["of a test"])
    assert text.splitlines() == [
        "# of a test",
        "top_k: 1, 2",
        "quant: none, fp8",
        "exact: false, true",
        "{ top_k, quant } @ 3",
        'IF [top_k] = 1 AND [quant] = "none" THEN [exact] <> "true";',
        'IF [top_k] = 2 THEN [quant] <> "fp8";',
        '[exact] <> "false";',
    ]
