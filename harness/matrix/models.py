"""Read and check `configs/models.yaml`: the MoE layers of real models, by name."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from harness.errors import ConfigError
from harness.matrix import file_errors, yaml_positions
from harness.matrix.model_facts import ModelFacts, RouterFacts

DEFAULT = Path("configs/models.yaml")
NAME = r"^[a-z0-9][a-z0-9._-]*$"


class ModelFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    version: Literal[1]
    models: dict[Annotated[str, StringConstraints(pattern=NAME)], ModelFacts] = Field(min_length=1)


@cache
def known_models(path: Path | None = None) -> dict[str, ModelFacts]:
    """Return the models of a file by name; by default of `configs/models.yaml`. See `load`."""
    return load(file_errors.find(path, DEFAULT))


def load(path: Path) -> dict[str, ModelFacts]:
    """Read and check a file of models.

    Raises UsageError if it cannot be read, and ConfigError with one line for each error in it.
    """
    located = yaml_positions.load(file_errors.read(path, "file of models"))
    errors = [*located.errors, *file_errors.empty(located)]
    if located.value is None:
        text = "the file is empty"
        errors = errors or [yaml_positions.YamlError(line=1, column=1, path=(), text=text)]
    else:
        try:
            checked = ModelFile.model_validate(located.value)
        except ValidationError as error:
            errors += _translate(error, located)
    if errors:
        raise ConfigError(file_errors.render(path, errors))
    return checked.models


def _translate(
    error: ValidationError, located: yaml_positions.Located
) -> list[yaml_positions.YamlError]:
    """Return pydantic's errors in plain words, each with its place."""
    errors = []
    for detail in error.errors(include_url=False):
        kind, value = detail["type"], detail["input"]
        path = tuple(part for part in detail["loc"] if part != "[key]")
        if path in located.empty:
            continue
        at_key = kind == "extra_forbidden" or "[key]" in detail["loc"]
        known = list(_keys_at(path[:-1]))
        text = file_errors.plain(kind, path, detail.get("ctx", {}), value, known)
        if kind == "string_pattern_mismatch" and "[key]" in detail["loc"]:
            text = f"must be a name of a-z, 0-9, '.', '-' and '_', not {value!r}"
        errors.append(file_errors.error_at(located, path, text or detail["msg"], key=at_key))
    return errors


def _keys_at(path: yaml_positions.Path) -> tuple[str, ...]:
    """Return the keys that may stand directly under `path`."""
    by_depth: dict[int, type[BaseModel]] = {0: ModelFile, 2: ModelFacts, 3: RouterFacts}
    model = by_depth.get(len(path))
    return tuple(model.model_fields) if model else ()
