"""Model the JSON of FlashInfer Trace: definitions, and lines with a workload each.

Keys that this project does not read are ignored. The reference code of a definition is text here:
nothing runs or imports it.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=0)]
# Names of dtypes in definitions -> those of safetensors. Formats below 8 bits have none there.
STORED = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "bool": "BOOL",
}
DTypeName = Literal[
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "float4_e2m1",
    "int64",
    "int32",
    "int16",
    "int8",
    "bool",
]


class Part(BaseModel):
    """A part of the format; further keys are ignored."""

    model_config = ConfigDict(strict=True, frozen=True)


class ConstAxis(Part):
    """A size that all workloads of a definition share."""

    type: Literal["const"]
    value: Count


class VarAxis(Part):
    """A size that each workload gives."""

    type: Literal["var"]


class TensorSpec(Part):
    """An input or output. shape: names of axes; null for a scalar."""

    shape: list[Name] | None
    dtype: DTypeName


class Definition(Part):
    """An operation with its shapes. reference: source text, which is never run."""

    name: Name
    op_type: Name
    axes: dict[Name, Annotated[ConstAxis | VarAxis, Field(discriminator="type")]]
    inputs: dict[Name, TensorSpec]
    outputs: dict[Name, TensorSpec]
    reference: str
    tags: list[Name] = []

    @property
    def sizes(self) -> dict[str, int]:
        """Return the values of the constant axes."""
        return {n: axis.value for n, axis in self.axes.items() if isinstance(axis, ConstAxis)}

    @property
    def variable_axes(self) -> tuple[str, ...]:
        """Return the names of the axes that each workload gives a value."""
        return tuple(n for n, axis in self.axes.items() if isinstance(axis, VarAxis))


class RandomInput(Part):
    """An input without recorded values."""

    type: Literal["random"]


class ScalarInput(Part):
    """An input that is one number."""

    type: Literal["scalar"]
    value: int | float | bool


class TensorInput(Part):
    """A recorded tensor. path: of a safetensors file, relative to the data set's folder."""

    type: Literal["safetensors"]
    path: Name
    tensor_key: Name


class Workload(Part):
    """The sizes and inputs of one recorded call."""

    uuid: Name
    axes: dict[Name, Count]
    inputs: dict[
        Name, Annotated[RandomInput | ScalarInput | TensorInput, Field(discriminator="type")]
    ]


class TraceLine(Part):
    """A line of a file of workloads."""

    definition: Name
    workload: Workload

    @property
    def digest(self) -> str:
        """Return 12 hexadecimal digits that stand for the workload in case ids."""
        content = json.dumps(self.model_dump(), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]
