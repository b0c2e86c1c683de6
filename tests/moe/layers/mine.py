"""A whole layer of another package, as far as its row goes."""

from moe.layers.base import LayerSubject
from moe.spec import Numerics


class Mine(LayerSubject):
    takes = frozenset({"tp"})
    numerics = Numerics.stated(expert="model")
    deterministic = True

    def load(self, checkpoint):
        raise NotImplementedError

    def forward(self, x):
        raise NotImplementedError
