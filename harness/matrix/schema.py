"""Models of `configs/matrix.yaml`; `schema()` exports them as JSON Schema for editors.

The keys of a block and of a layout, and their values, are derived from the axes of a case. An
axis that a block leaves out is taken from `defaults`, or else from the defaults of
`MoETestConfig`.
"""

from __future__ import annotations

import json
from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    WithJsonSchema,
    create_model,
    model_validator,
)

from harness.errors import CaseError
from harness.matrix.axis import LARGEST, SMALLEST, value_error
from harness.matrix.case import FILE_KEYS, MoETestConfig
from harness.matrix.file_errors import hint
from harness.matrix.select import PATTERN, parse
from harness.matrix.suite_size import MOST_SECONDS
from moe import families
from moe.errors import UnknownMemberError

if TYPE_CHECKING:
    from harness.matrix.axis import Axis

_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.:]*$"


def _checked(axis: Axis) -> AfterValidator:
    """Return a validator that applies the rules of the axis to a value of the file."""

    def checked(word: str) -> str:
        message = value_error(axis, word)
        if message:
            raise ValueError(message + hint(word, axis.choices))
        # The plan loads a class given by its path: loading it here could import torch.
        if axis.family and ":" not in word and word not in axis.extra_names:
            _row(axis.family, word)
        return word

    return AfterValidator(checked)


def _members(axis: Axis, family: str) -> Any:
    """Return the type of a list of names of one family; `all` stands for every name."""

    def expanded(value: object) -> object:
        return list(families.table(family).rows) if value == "all" else value

    names = {"type": "array", "minItems": 1, "items": {"type": "string", "pattern": _NAME}}
    return Annotated[
        list[Annotated[str, _checked(axis)]],
        Field(min_length=1),
        BeforeValidator(expanded),
        WithJsonSchema({"anyOf": [{"const": "all"}, names]}),
    ]


def _row(family: str, name: str) -> None:
    try:
        families.table(family).row(name)
    except UnknownMemberError as error:
        raise ValueError(str(error)) from None


def _value(axis: Axis) -> Any:
    """Return the type of one value of an axis that is not a family."""
    if axis.kind == "bool":
        return bool
    if axis.kind == "int":
        return Annotated[int, Field(ge=axis.minimum)]
    if axis.kind == "float":
        return Annotated[float, Field(ge=SMALLEST, le=LARGEST)]
    words = {"enum": list(axis.choices)} if axis.choices else {"pattern": _NAME}
    return Annotated[str, _checked(axis), WithJsonSchema({"type": "string", **words})]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


Count = Annotated[int, Field(ge=0)]


def _model(name: str, description: str, fields: dict[str, Any]) -> Any:
    return create_model(name, __base__=_Model, __doc__=description, __module__=__name__, **fields)


def _mapping_fields(axes: tuple[Axis, ...]) -> dict[str, Any]:
    """Return the fields of a group that is a mapping by tokens, with their defaults."""
    return {a.token: (_value(a), Field(a.default, description=a.description)) for a in axes}


def _key_field(axes: tuple[Axis, ...]) -> tuple[Any, Any]:
    """Return type and description of the key that sets these axes."""
    first = axes[0]
    if first.family:
        text = f"{first.description}; or all"
        return _members(first, first.family) | None, Field(None, description=text)
    if first.group is None:
        item, text = _value(first), first.description
    elif first.required:
        numbers = Field(min_length=len(axes), max_length=len(axes))
        item = Annotated[GenericAlias(list, _value(first)), numbers]
        tokens = ", ".join(axis.token for axis in axes)
        text = f"[{tokens}]: {', '.join(axis.description for axis in axes)}"
    else:
        item, text = LayoutModel, "how ranks share the work"
    return GenericAlias(list, item) | None, Field(None, min_length=1, description=text)


if TYPE_CHECKING:  # mypy does not accept a class made at run time as a type

    class LayoutModel(_Model): ...

    class Axes(_Model): ...
else:
    LayoutModel = _model(
        "LayoutModel",
        "How ranks share the work: {dp: 2, tp: 2, ep: true, sp: false}.",
        _mapping_fields(FILE_KEYS["layouts"]),
    )
    Axes = _model(
        "Axes",
        "A product of axes; each point is one case.",
        {key: _key_field(axes) for key, axes in FILE_KEYS.items()},
    )


def _selects(text: str) -> str:
    parse(text)
    return text


def checked_case_id(text: str) -> str:
    """Check the id of a case. Raises ValueError."""
    try:
        MoETestConfig.from_id(text)
    except CaseError as error:
        raise ValueError(str(error)) from None
    return text


def _file_key(key: str) -> str:
    """Check that a word is a key with axes. Raises ValueError."""
    if key not in FILE_KEYS:
        raise ValueError(f"no axis is called {key!r}{hint(key, list(FILE_KEYS))}")
    return key


class Submodel(_Model):
    """Axes of which more are combined than of the others: `{axes: [...], strength: 3}`."""

    axes: list[
        Annotated[str, AfterValidator(_file_key), WithJsonSchema({"enum": list(FILE_KEYS)})]
    ] = Field(min_length=2, description="keys of the block, such as experts, quant, layouts")
    strength: int = Field(ge=2, description="of how many of these axes all values are combined")


class Block(Axes):
    """A product of axes, or some points of it."""

    select: Annotated[
        str,
        AfterValidator(_selects),
        WithJsonSchema({"type": "string", "pattern": PATTERN, "default": "full"}),
    ] = Field(
        "full",
        description="full: each point; pairwise, triples: few cases with each combination of the "
        "values of any two or three axes that can run; random(n, seed): n cases that can run",
    )
    submodels: list[Submodel] = Field(
        [], description="with pairwise or triples: axes that are combined more strongly"
    )
    cases: list[
        Annotated[str, AfterValidator(checked_case_id), WithJsonSchema({"type": "string"})]
    ] = Field([], description="ids of cases that the block has whatever `select` says")

    least_work: bool = Field(
        False,
        description="with pairwise or triples: where another value leaves as much covered, the one "
        "with fewer ranks and interpreted kernels",
    )

    @model_validator(mode="after")
    def _strengths_fit(self) -> Block:
        """Check what goes with a strength, and that submodels exceed it. Raises ValueError."""
        strength = parse(self.select).strength
        for words in ("submodels go", "least_work goes"):
            if getattr(self, words.split()[0]) and strength is None:
                raise ValueError(f"{words} with select: pairwise or triples")
        for submodel in self.submodels:
            if not (strength or 0) < submodel.strength <= len(set(submodel.axes)):
                raise ValueError(
                    f"a submodel's strength must be more than the block's, {strength}, and at "
                    f"most its number of axes, {len(set(submodel.axes))}, not {submodel.strength}"
                )
        return self


class Suite(_Model):
    """A named selection: the union of its blocks."""

    description: str = Field(description="one line: for what, where, how long")
    time_limit_s: float = Field(
        120.0, gt=0, le=MOST_SECONDS, description="seconds that one case may take"
    )
    retries: Count = Field(0, description="further tries of a failed case, in a fresh gang")
    plain_call: bool = Field(
        False, description="call each case once more, neither poisoned nor recorded"
    )
    include: list[str] = Field([], description="earlier suites whose cases this one has, too")
    blocks: list[Block] = Field(min_length=1)


SuiteName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]


class MatrixConfig(_Model):
    """The whole file."""

    version: Literal[1]
    defaults: Axes = Axes()
    suites: dict[SuiteName, Suite] = Field(min_length=1)


def schema(model: type[BaseModel] = MatrixConfig) -> str:
    """Return a file's format as JSON Schema, draft 7, the newest that YAML editors support."""
    exported = _without_null(model.model_json_schema())
    text = json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", **exported}, indent=2)
    return text.replace('"#/$defs/', '"#/definitions/').replace('"$defs"', '"definitions"') + "\n"


def _without_null(part: Any) -> Any:
    """Return a schema without null, which models use for a missing axis and files must not."""
    if isinstance(part, list):
        return [_without_null(item) for item in part if item != {"type": "null"}]
    if not isinstance(part, dict):
        return part
    items = [item for item in part.items() if item != _NO_DEFAULT]
    cleaned = {key: _without_null(value) for key, value in items}
    options = cleaned.pop("anyOf", None)
    if options is not None and len(options) == 1:
        return {**options[0], **cleaned}
    return cleaned if options is None else {**cleaned, "anyOf": options}


_NO_DEFAULT = ("default", None)
