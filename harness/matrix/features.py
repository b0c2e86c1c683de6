"""Name what real layers do that no case can say yet; such a case is refused, never approximated.

The axis `missing` of a case joins these words by `.`: `missing:router_groups.act_relu3`. Its id
therefore says by itself that it is not the real layer. No torch.
"""

from __future__ import annotations

from moe.errors import MoEError
from moe.spec import Reason

NOTHING = "nothing"  # a case that says its layer completely
# Word -> (reason code, what the layer does).
FEATURES = {
    "router_groups": (
        "router_unsupported",
        "the router ranks groups of experts by their best expert, not by the sum of their two best",
    ),
}
# Words that end in a name: there is no row of that name (yet) -> (code, what, the rows' family).
NAMED = {
    "scoring_": ("router_unsupported", "the router's scores are computed by", "moe.routers"),
    "act_": ("activation_unsupported", "the activation function is", "moe.activations"),
    "quant_": ("quant_unsupported", "the checkpoint's quantization is", "moe.quant"),
}


def joined(words: list[str]) -> str:
    """Return the value of the axis `missing` for these words."""
    return ".".join(words) or NOTHING


def missing_reason(value: str) -> Reason | None:
    """Return why a case with this value of `missing` is refused: the first word's code, all texts.

    None for NOTHING. Raises MoEError for an unknown word.
    """
    if value == NOTHING:
        return None
    reasons = [_reason(word) for word in value.split(".")]
    text = "; ".join(reason.text for reason in reasons)
    return Reason(code=reasons[0].code, text=f"no case can say yet: {text}")


def _reason(word: str) -> Reason:
    if word in FEATURES:
        code, text = FEATURES[word]
        return Reason(code=code, text=text)
    for prefix, (code, text, family) in NAMED.items():
        name = word.removeprefix(prefix)
        if name and name != word:
            return Reason(code=code, text=f"{text} {name}, which is not a row of {family}")
    known = ", ".join([*FEATURES, *(f"{prefix}NAME" for prefix in NAMED)])
    raise MoEError(f"missing:{word}: no feature is called {word!r} (known: {known})")
