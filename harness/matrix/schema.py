"""The format of `configs/matrix.yaml`, as models; `schema()` exports it for editors.

An axis that a block leaves out is taken from `defaults`, and what those leave out has
`MoETestConfig`'s own default.
"""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
)

from harness.matrix.case import TOKEN_COUNTS, complaint
from moe.activations import ACTIVATIONS
from moe.all2all import ALL2ALL
from moe.errors import UnknownMemberError
from moe.experts import EXPERTS
from moe.oracle import AUTO
from moe.quant import QUANT
from moe.routers import ROUTERS
from moe.spec import DTYPE_BYTES

if TYPE_CHECKING:
    from moe.registry import Registry

# Axis -> the table of its members.
_FAMILIES: dict[str, Registry[Any]] = {
    "experts": EXPERTS,
    "all2all": ALL2ALL,
    "quant": QUANT,
    "router": ROUTERS,
    "activation": ACTIVATIONS,
}
_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.:]*$"


def _member(family: str) -> Any:
    """The type of a list of names of one family; `all` stands for every row."""

    def every(value: object) -> object:
        return list(_FAMILIES[family].rows) if value == "all" else value

    def known(name: str) -> str:
        wrong = complaint(family, name)
        if wrong:
            raise ValueError(wrong)
        # A class given by its path is loaded by the plan, not here: that may import torch.
        if ":" not in name and name != (AUTO if family == "experts" else None):
            _row(family, name)
        return name

    names = {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": _NAME}}
    return Annotated[
        list[Annotated[str, AfterValidator(known)]],
        Field(min_length=1),
        BeforeValidator(every),
        WithJsonSchema({"anyOf": [{"const": "all"}, names]}),
    ]


def _row(family: str, name: str) -> None:
    try:
        _FAMILIES[family].row(name)
    except UnknownMemberError as error:
        raise ValueError(str(error)) from None


def _choice(field: str, allowed: tuple[str, ...]) -> Any:
    """The type of a list of words out of `allowed`."""

    def known(word: str) -> str:
        wrong = complaint(field, word)
        if wrong:
            raise ValueError(wrong + hint(word, allowed))
        return word

    schema = WithJsonSchema({"type": "string", "enum": list(allowed)})
    word = Annotated[str, AfterValidator(known), schema]
    return Annotated[list[word], Field(min_length=1)]


def hint(word: str, known: tuple[str, ...] | list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f", did you mean {close[0]!r}?" if close else ""


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Shape = Annotated[list[Positive], Field(min_length=3, max_length=3)]


class LayoutModel(_Model):
    """How ranks share the work: {dp: 2, tp: 2, ep: true, sp: false}."""

    dp: Positive = Field(1, description="data-parallel size")
    tp: Positive = Field(1, description="tensor-parallel size; world size = dp * tp")
    ep: bool = Field(False, description="spread the experts over all ranks")
    sp: bool = Field(False, description="split tokens over the TP ranks; needs ep and tp > 1")


class Axes(_Model):
    """A product of axes; each point is one case."""

    shapes: list[Shape] | None = Field(
        None, min_length=1, description="[m, n, k]: tokens per DP rank, intermediate, hidden size"
    )
    num_experts: list[Positive] | None = Field(None, min_length=1)
    top_k: list[Positive] | None = Field(None, min_length=1)
    experts: _member("experts") | None = Field(  # type: ignore[valid-type]
        None, description="experts backends: names, `auto`, 'pkg.mod:Class', or all"
    )
    all2all: _member("all2all") | None = Field(None, description="all2all backends, or all")  # type: ignore[valid-type]
    quant: _member("quant") | None = Field(None, description="quantization methods, or all")  # type: ignore[valid-type]
    router: _member("router") | None = Field(None, description="routers, or all")  # type: ignore[valid-type]
    activation: _member("activation") | None = Field(  # type: ignore[valid-type]
        None, description="activations of the gate, or all"
    )
    dtype: _choice("dtype", tuple(DTYPE_BYTES)) | None = None  # type: ignore[valid-type]
    layouts: list[LayoutModel] | None = Field(None, min_length=1)
    shared_experts: list[Count] | None = Field(None, min_length=1)
    renormalize: list[bool] | None = Field(None, min_length=1)
    tokens: _choice("tokens", TOKEN_COUNTS) | None = Field(  # type: ignore[valid-type]
        None, description="how tokens are spread over DP ranks"
    )
    seed: list[Count] | None = Field(None, min_length=1)
    exact: list[bool] | None = Field(
        None, min_length=1, description="inputs whose sums are exact: outputs compared bit for bit"
    )


class Suite(_Model):
    """A named selection: the union of its blocks."""

    description: str = Field(description="one line: for what, where, how long")
    time_limit_s: float = Field(120.0, gt=0, description="seconds that one case may take")
    retries: Count = Field(0, description="further tries of a failed case, in a fresh gang")
    blocks: list[Axes] = Field(min_length=1)


SuiteName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]


class MatrixConfig(_Model):
    """The whole file."""

    version: Literal[1]
    defaults: Axes = Axes()
    suites: dict[SuiteName, Suite] = Field(min_length=1)


def schema() -> str:
    """The format as JSON Schema, draft 7 (the newest that YAML editors read)."""
    exported = _without_null(MatrixConfig.model_json_schema())
    text = json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", **exported}, indent=2)
    return text.replace('"#/$defs/', '"#/definitions/').replace('"$defs"', '"definitions"') + "\n"


def _without_null(part: Any) -> Any:
    """None is how a model says that an axis is left out; in a file it is an error."""
    if isinstance(part, list):
        return [_without_null(item) for item in part if item != {"type": "null"}]
    if not isinstance(part, dict):
        return part
    kept = {key: _without_null(value) for key, value in part.items() if (key, value) != _NO_DEFAULT}
    options = kept.pop("anyOf", None)
    if options is not None and len(options) == 1:
        return {**options[0], **kept}
    return kept if options is None else {**kept, "anyOf": options}


_NO_DEFAULT = ("default", None)
