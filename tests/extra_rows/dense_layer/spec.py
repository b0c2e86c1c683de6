"""The row of a whole layer that computes every expert for every token. No torch."""

from moe.layers.layer_row import OwnLayerSpec

DENSE_LAYER = OwnLayerSpec(
    name="dense_layer",
    target="dense_layer.member:DenseLayer",
    takes=frozenset({"tp", "no_renorm"}),
    deterministic=True,
)
