"""Read and check `configs/known_failures.yaml`: cases that fail for a known reason, for a while.

Every entry has an issue and a last day. `harness.record.ledger` applies them to a run. No torch.
"""

from __future__ import annotations

import datetime
import fnmatch
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic import model_validator as checked_after

from harness.errors import ConfigError
from harness.matrix import file_errors, yaml_positions
from harness.record.result import Verdict
from harness.record.summary import BAD

DEFAULT = Path("configs/known_failures.yaml")
_PATTERN = r"^[A-Za-z0-9._:*?-]+$"
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_LINK = r"^https?://[^\s]+$"
_MUST_MATCH = {
    "case": "a case id, in which * and ? stand for other letters",
    "expires": "a day such as 2027-01-31",
    "issue": "a link such as https://host/project/issues/1",
}

VerdictName = Literal["failed", "error", "crashed", "hung", "vacuous", "flaky"]


class Entry(BaseModel):
    """Cases that fail for one known reason."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    case: Annotated[str, StringConstraints(pattern=_PATTERN)] = Field(
        description="a case id, or a pattern with * and ?; the first entry that matches counts"
    )
    issue: Annotated[str, StringConstraints(pattern=_LINK)] = Field(
        description="link to where the failure is being looked into"
    )
    expires: Annotated[str, StringConstraints(pattern=_DATE)] = Field(
        description="last day, in UTC, on which the entry counts, as 2027-01-31"
    )
    verdicts: list[VerdictName] = Field(
        [],
        description="verdicts that are expected; with flaky a pass is expected, too",
    )
    cause: Annotated[str, StringConstraints(min_length=1)] | None = Field(
        None, description="text that the failure's report must contain"
    )
    platforms: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="platforms on which it fails; by default all"
    )
    quarantine: bool = Field(False, description="never launch these cases")

    @checked_after(mode="after")
    def _fits(self) -> Entry:
        """Check what one key asks of another. Raises ValueError."""
        try:
            datetime.date.fromisoformat(self.expires)
        except ValueError:
            raise ValueError(
                f"expires: there is no day {self.expires!r}; write one as 2027-12-31"
            ) from None
        if not self.quarantine and not self.verdicts:
            raise ValueError("lacks verdicts: [failed] or others, or quarantine: true")
        if self.quarantine and (self.verdicts or self.cause):
            raise ValueError("what is in quarantine has no verdicts and no cause: leave them out")
        return self


class KnownFailuresFile(BaseModel):
    """The whole file."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    version: Literal[1]
    entries: list[Entry]


@dataclass(frozen=True, kw_only=True)
class KnownFailure:
    """An entry of the file. place: `file:line`. expires: the last day on which it counts."""

    pattern: str
    issue: str
    expires: datetime.date
    place: str
    verdicts: tuple[Verdict, ...] = ()
    cause: str | None = None
    platforms: tuple[str, ...] = ()  # none: on all
    quarantine: bool = False

    def matches(self, case_id: str, platform: str) -> bool:
        """Return whether the entry is about a case on a platform."""
        on_it = not self.platforms or platform in self.platforms
        return on_it and fnmatch.fnmatchcase(case_id, self.pattern)

    def has_expired(self, today: datetime.date) -> bool:
        """Return whether its last day is over."""
        return today > self.expires


assert {str(verdict) for verdict in BAD} == set(VerdictName.__args__)  # type: ignore[attr-defined]


def known_failures(path: Path | None = None) -> tuple[KnownFailure, ...]:
    """Return the entries of a file, or if None of the default one; without it there are none.

    Raises UsageError if it cannot be read, and ConfigError with one line for each error in it.
    """
    path_of_file = file_errors.find(path, DEFAULT)
    return load(path_of_file) if path is not None or path_of_file.exists() else ()


def load(path: Path) -> tuple[KnownFailure, ...]:
    """Read and check a file of known failures. Raises UsageError or ConfigError."""
    located = yaml_positions.load(file_errors.read(path, "file of known failures"))
    errors = [*located.errors, *file_errors.empty(located)]
    checked = KnownFailuresFile(version=1, entries=[])
    if located.value is None:
        text = "the file is empty"
        errors = errors or [yaml_positions.YamlError(line=1, column=1, path=(), text=text)]
    else:
        try:
            checked = KnownFailuresFile.model_validate(located.value)
        except ValidationError as error:
            errors += _translate(error, located)
    if errors:
        raise ConfigError(file_errors.render(path, errors))
    places = [located.where(("entries", i))[0] for i in range(len(checked.entries))]
    return tuple(
        _known(entry, f"{path}:{line}") for entry, line in zip(checked.entries, places, strict=True)
    )


def _known(entry: Entry, place: str) -> KnownFailure:
    return KnownFailure(
        pattern=entry.case,
        issue=entry.issue,
        expires=datetime.date.fromisoformat(entry.expires),
        place=place,
        verdicts=tuple(map(Verdict, entry.verdicts)),
        cause=entry.cause,
        platforms=tuple(entry.platforms or ()),
        quarantine=entry.quarantine,
    )


def _translate(
    error: ValidationError, located: yaml_positions.Located
) -> list[yaml_positions.YamlError]:
    """Return pydantic's errors in plain words, each with its place."""
    errors = []
    for detail in error.errors(include_url=False):
        kind, value, path = detail["type"], detail["input"], tuple(detail["loc"])
        if path in located.empty:
            continue
        known = list((Entry if len(path) > 2 else KnownFailuresFile).model_fields)
        text = file_errors.plain(kind, path, detail.get("ctx", {}), value, known)
        if kind == "string_pattern_mismatch":
            text = f"must be {_MUST_MATCH[str(path[-1])]}, not {file_errors.short(value)}"
        at_key = kind == "extra_forbidden"
        errors.append(file_errors.error_at(located, path, text or detail["msg"], key=at_key))
    return errors
