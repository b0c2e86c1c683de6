"""The table of layers: rows from outside, made from a class's attributes."""

import pytest

from moe import registry
from moe.errors import MoEError
from moe.experts.torch_loop import TorchLoopExperts
from moe.layers import COMPOSED, LayerRegistry, LayerRow
from moe.layers.base import LayerSubject
from moe.platforms import platform
from moe.spec import ANY, Needs, Numerics, Problem, Row, Scheme


class Mine(LayerSubject):
    takes = frozenset({"tp"})
    numerics = Numerics(expert="model")
    deterministic = True

    def load(self, checkpoint):
        raise NotImplementedError

    def forward(self, x):
        raise NotImplementedError


class Derived(Mine):
    takes = frozenset({"tp", "ep"})


class Backend(TorchLoopExperts):
    row = Row(name="backend", target=f"{__name__}:Backend")


class _Entry:
    def load(self):
        return Mine.row


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(registry, "entry_points", lambda group: {"moe.layers": [_Entry()]}[group])
    return LayerRegistry("layers", (LayerRow(name=COMPOSED, target="moe.layer:FusedMoE"),))


def test_a_class_carries_a_row_of_its_attributes(table):
    row = table.row(f"{__name__}:Mine")
    assert (row.takes, row.numerics, row.deterministic) == (Mine.takes, Mine.numerics, True)
    assert (row.needs.formats, row.takes_logits) == (frozenset({("model", "model")}), False)
    assert table.load(f"{__name__}:Mine") is Mine


def test_a_derived_class_has_a_row_of_its_own():
    assert Mine.row.takes == frozenset({"tp"})
    assert (Derived.row.name, Derived.row.takes) == ("Derived", frozenset({"tp", "ep"}))
    assert Derived.row.numerics == Mine.numerics


def test_a_package_names_a_row_by_entry_point(table):
    assert list(table.rows) == [COMPOSED, "Mine"]
    assert table.load("Mine") is Mine


def test_a_member_of_another_family_is_no_layer(table):
    with pytest.raises(MoEError, match=r"Backend is not a whole layer: .* with `--experts`"):
        table.row(f"{__name__}:Backend")


def test_pairs_of_formats_are_named_in_the_needs():
    with pytest.raises(
        ValueError, match=r"layer 'Old' has `schemes`; write needs = Needs\(formats="
    ):
        type("Old", (Mine,), {"schemes": frozenset({("model", "model")})})


def quantized(needs, **more):
    """Why a layer with these needs refuses fp8 blocks."""
    row = LayerRow(name="layer", target="json:loads", needs=needs)
    scheme = Scheme(weights="fp8_block", activations="fp8_group")
    sizes = {"m": 1, "hidden": 128, "intermediate": 128, "num_experts": 4, "top_k": 2}
    return row.refusal(Problem(**sizes, scheme=scheme, **more), platform("cpu"))


def test_a_layer_takes_the_pairs_of_its_needs():
    taken = Needs(formats=frozenset({("fp8_block", "fp8_group")}))
    assert quantized(taken) is None
    assert quantized(Needs(formats=ANY)) is None
    assert quantized(Needs()).code == "scheme_unsupported"
    # Each half of the pair by itself is not enough.
    halves = Needs(formats=frozenset({("fp8_block", "model"), ("model", "fp8_group")}))
    assert quantized(halves).text == (
        "takes fp8_block with model, model with fp8_group, not fp8_block with fp8_group"
    )


def test_other_needs_of_a_layer_are_asked_after_the_pair():
    assert quantized(Needs(), dtype="fp16").code == "scheme_unsupported"
    assert quantized(Needs(formats=ANY), dtype="fp16").code == "dtype_unsupported"
    assert quantized(Needs(formats=ANY), activation="gelu_tanh").code == "activation_unsupported"
