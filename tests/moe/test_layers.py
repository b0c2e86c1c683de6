"""The table of layers: rows from outside, made from a class's attributes."""

import pytest

from moe import registry
from moe.errors import MoEError
from moe.experts.torch_loop import TorchLoopExperts
from moe.layers import COMPOSED, LayerRegistry, LayerRow
from moe.layers.base import LayerSubject
from moe.spec import Numerics, Row


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
    assert (row.schemes, row.takes_logits) == (frozenset({("model", "model")}), False)
    assert table.load(f"{__name__}:Mine") is Mine


def test_a_derived_class_has_a_row_of_its_own():
    assert Mine.row.takes == frozenset({"tp"})
    assert (Derived.row.name, Derived.row.takes) == ("Derived", frozenset({"tp", "ep"}))
    assert Derived.row.numerics == Mine.numerics


def test_a_package_names_a_row_by_entry_point(table):
    assert list(table.rows) == [COMPOSED, "Mine"]
    assert table.load("Mine") is Mine


def test_a_member_of_another_family_is_no_layer(table):
    with pytest.raises(MoEError, match=r"Backend is no whole layer: .* with `--experts`"):
        table.row(f"{__name__}:Backend")
