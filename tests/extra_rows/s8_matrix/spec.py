"""int8 with one scale for each expert's matrix; activations stay as they are. No torch."""

from moe.formats.format import Format
from moe.quant import QuantSpec
from moe.spec import Scheme

FORMAT = Format(
    name="s8_matrix",
    target="s8_matrix.codec:S8",
    truth="s8_matrix.truth:S8Truth",
    grid="s8",
    top=127.0,
    block=(None, None),
    exact_scale=False,
)
METHOD = QuantSpec(
    name="s8_weights",
    target="s8_matrix.method:S8Weights",
    scheme=Scheme(weights="s8_matrix", activations="model", weight_bytes=1),
)
