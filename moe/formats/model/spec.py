"""Define the row of unquantized tensors. Torch-free."""

from __future__ import annotations

from moe.formats.format import Format

MODEL = Format(
    name="model",
    target="moe.formats.model.codec:ModelDtype",
    grid="model",
    exact_scale=True,  # it has no scale
)
