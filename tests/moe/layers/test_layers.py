"""The table of layers: rows from outside."""

import pytest

from moe import registry
from moe.errors import MoEError
from moe.experts.torch_loop import TorchLoopExperts
from moe.layers import COMPOSED, LayerRegistry
from moe.layers.layer_row import OwnLayerSpec
from moe.spec import MemberSpec
from tests.moe.layers.mine import Mine


class Backend(TorchLoopExperts):
    row = MemberSpec(name="backend", target=f"{__name__}:Backend")


class _Entry:
    def load(self):
        return Mine.row


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(registry, "entry_points", lambda group: {"moe.layers": [_Entry()]}[group])
    return LayerRegistry("layers", (OwnLayerSpec(name=COMPOSED, target="moe.layer:FusedMoE"),))


def test_a_class_carries_a_row_of_its_attributes(table):
    row = table.row(f"{Mine.__module__}:Mine")
    assert (row.takes, row.numerics, row.deterministic) == (Mine.takes, Mine.numerics, True)
    assert (row.needs.formats, row.takes_logits) == (frozenset({("model", "model")}), False)
    assert table.load(f"{Mine.__module__}:Mine") is Mine


def test_a_package_names_a_row_by_entry_point(table):
    assert list(table.rows) == [COMPOSED, "Mine"]
    assert table.load("Mine") is Mine


def test_a_member_of_another_family_is_no_layer(table):
    with pytest.raises(MoEError, match=r"Backend is not a whole layer: .* with `--experts`"):
        table.row(f"{__name__}:Backend")
