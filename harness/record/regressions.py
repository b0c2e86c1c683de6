"""Read and extend `configs/regressions.yaml`: cases that failed once, which every suite runs.

The file lies beside the matrix file. `fuzz` appends the smallest cases that it finds; a case stays
there once it passes, so that the mistake cannot come back unseen. No torch.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from harness.errors import ConfigError, UsageError, reason_of
from harness.matrix import file_errors, yaml_positions
from harness.matrix.case import MoETestConfig
from harness.matrix.schema import checked_case_id
from harness.matrix.suite_size import MOST_CASES
from harness.record.known_failures import VerdictName  # noqa: TC001  # pydantic reads it

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "regressions.yaml"
DEFAULT = Path("configs") / NAME
HEAD = """\
# Cases that failed once: every suite of the matrix file beside this one runs them.
version: 1
entries: []
"""
_EMPTY = re.compile(r"^entries: *\[ *\] *$", re.MULTILINE)
_NUMBER = re.compile(r"\d[\d.,e+-]*")


class Regression(BaseModel):
    """A case that failed once."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    case: Annotated[str, AfterValidator(checked_case_id)] = Field(description="a case id")
    verdict: VerdictName = Field(description="how it ended")
    cause: str = Field("", description="what its report named first")
    origin: str = Field("", description="the day on which it was found, and by what")

    def is_like(self, other: Regression) -> bool:
        """Return whether both are one mistake: of one member, with one cause but for numbers."""
        return self.case == other.case or (bool(self.cause) and self._kind() == other._kind())

    def _kind(self) -> tuple[str, str, str]:
        case = MoETestConfig.from_id(self.case)
        return self.verdict, case.under_test, _NUMBER.sub("#", self.cause)

    def yaml(self) -> str:
        """Return the entry as lines of the file."""
        fields = self.model_dump(exclude_defaults=True)
        lines = [f"{key}: {json.dumps(text, ensure_ascii=False)}" for key, text in fields.items()]
        return "".join(f"  {'-' if i == 0 else ' '} {line}\n" for i, line in enumerate(lines))


class RegressionsFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    version: Literal[1]
    entries: list[Regression] = Field(max_length=MOST_CASES)


def beside(matrix: Path) -> tuple[MoETestConfig, ...]:
    """Return the cases that every suite of a matrix file runs. Raises ConfigError, UsageError."""
    path = matrix.parent / NAME
    if not path.exists():
        return ()
    return tuple(MoETestConfig.from_id(entry.case) for entry in load(path))


def load(path: Path) -> Sequence[Regression]:
    """Read and check a file. Raises UsageError, or ConfigError with one line for each error."""
    return _checked(path, file_errors.read(path, "file of regressions"))


def _checked(path: Path, text: str) -> Sequence[Regression]:
    located = yaml_positions.load(text)
    errors = [*located.errors, *file_errors.empty(located)]
    entries: Sequence[Regression] = ()
    try:
        entries = RegressionsFile.model_validate(located.value).entries
    except ValidationError as error:
        errors = errors or _translate(error, located)
    if errors:
        raise ConfigError(file_errors.render(path, errors))
    return entries


def _translate(
    error: ValidationError, located: yaml_positions.Located
) -> list[yaml_positions.YamlError]:
    """Return pydantic's errors in plain words, each with its place."""
    errors = []
    for detail in error.errors(include_url=False):
        path, kind = tuple(detail["loc"]), detail["type"]
        known = list((Regression if len(path) > 2 else RegressionsFile).model_fields)
        text = file_errors.plain(kind, path, detail.get("ctx", {}), detail["input"], known)
        at_key = kind == "extra_forbidden"
        errors.append(file_errors.error_at(located, path, text or detail["msg"], key=at_key))
    return errors


def append(path: Path, entry: Regression) -> Regression | None:
    """Append an entry, or return the one that is about the same mistake already.

    Comments and entries that are there stay as they are; a file that is not there is made. Raises
    UsageError if it cannot be written, or has a form that cannot be appended to, and ConfigError.
    """
    text = file_errors.read(path, "file of regressions") if path.exists() else HEAD
    like = next(filter(entry.is_like, entries := _checked(path, text)), None)
    if like is not None:
        return like
    text = _EMPTY.sub("entries:", text).rstrip("\n") + "\n" + entry.yaml()
    try:
        is_whole = list(_checked(path, text)) == [*entries, entry]
    except ConfigError:
        is_whole = False
    if not is_whole:
        form = "its entries must be the last key, one block of lines each"
        raise UsageError(f"cannot append to {str(path)!r}: {form}; append:\n{entry.yaml()}")
    _write(path, text)
    return None


def _write(path: Path, text: str) -> None:
    """Put a text in the place of a file at once: a run that reads it meanwhile sees no half."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UsageError(f"cannot write {str(path)!r}: {reason_of(error)}") from error
