"""Read and check `configs/matrix.yaml`; report every error at once, with line and column."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from harness.errors import ConfigError
from harness.matrix import file_errors, yaml_positions
from harness.matrix.case import FILE_KEYS
from harness.matrix.file_errors import error_at, plain, short
from harness.matrix.schema import Axes, Block, LayoutModel, MatrixConfig, Submodel, Suite

if TYPE_CHECKING:
    from pydantic import BaseModel

DEFAULT = Path("configs/matrix.yaml")
REQUIRED = tuple(key for key, axes in FILE_KEYS.items() if axes[0].required)


def find(path: Path | None) -> Path:
    """Return `path`, or if None `configs/matrix.yaml` in the current folder or the repository."""
    return file_errors.find(path, DEFAULT)


def load(path: Path) -> MatrixConfig:
    """Read and check a matrix file.

    Raises UsageError if it cannot be read, and ConfigError with one line for each error in it.
    """
    text = file_errors.read(path, "matrix file")
    config, errors = _checked(yaml_positions.load(text))
    if errors or config is None:
        raise ConfigError(file_errors.render(path, errors))
    return config


def _checked(
    located: yaml_positions.Located,
) -> tuple[MatrixConfig | None, list[yaml_positions.YamlError]]:
    """Return the file as a model, None if it cannot be one, and every error."""
    errors = list(located.errors)
    if located.value is None:
        empty = yaml_positions.YamlError(line=1, column=1, path=(), text="the file is empty")
        return None, errors or [empty]
    errors += file_errors.empty(located) + _unset_axes(located) + _impossible_layouts(located)
    errors += _unknown_includes(located)
    try:
        return MatrixConfig.model_validate(located.value), errors
    except ValidationError as error:
        return None, errors + _translate(error, located)


def _blocks(value: Any) -> list[tuple[yaml_positions.Path, Any]]:
    """Return every block of every suite with its path, skipping parts of the wrong type."""
    suites = value.get("suites") if isinstance(value, dict) else None
    located_blocks: list[tuple[yaml_positions.Path, Any]] = []
    for name, suite in suites.items() if isinstance(suites, dict) else ():
        blocks = suite.get("blocks") if isinstance(suite, dict) else None
        for i, block in enumerate(blocks if isinstance(blocks, list) else ()):
            located_blocks.append((("suites", name, "blocks", i), block))
    return located_blocks


def _unset_axes(located: yaml_positions.Located) -> list[yaml_positions.YamlError]:
    """Return an error for each block without a required axis that `defaults` lacks as well."""
    defaults = located.value.get("defaults") if isinstance(located.value, dict) else None
    default_keys = set(defaults) if isinstance(defaults, dict) else set()
    errors = []
    for path, block in _blocks(located.value):
        if not isinstance(block, dict):
            continue
        missing = [key for key in REQUIRED if key not in default_keys and key not in block]
        if missing:
            text = f"lacks {', '.join(missing)}; give it here or under `defaults`"
            errors.append(error_at(located, path, text))
    return errors


def _unknown_includes(located: yaml_positions.Located) -> list[yaml_positions.YamlError]:
    """Return an error for each included suite that does not stand earlier in the file."""
    suites = located.value.get("suites") if isinstance(located.value, dict) else None
    earlier: list[str] = []
    errors = []
    for name, suite in suites.items() if isinstance(suites, dict) else ():
        included = suite.get("include") if isinstance(suite, dict) else None
        for i, word in enumerate(included if isinstance(included, list) else ()):
            if isinstance(word, str) and word not in earlier:
                text = f"no suite before {name!r} is called {word!r}"
                text += file_errors.hint(word, earlier)
                errors.append(error_at(located, ("suites", name, "include", i), text))
        earlier.append(name)
    return errors


def _impossible_layouts(located: yaml_positions.Located) -> list[yaml_positions.YamlError]:
    """Return an error for each layout with sequence parallelism that its sizes do not allow."""
    defaults = located.value.get("defaults") if isinstance(located.value, dict) else None
    errors = []
    for path, block in [(("defaults",), defaults), *_blocks(located.value)]:
        layouts = block.get("layouts") if isinstance(block, dict) else None
        for i, layout in enumerate(layouts if isinstance(layouts, list) else ()):
            if isinstance(layout, dict) and layout.get("sp") is True and not _sp_fits(layout):
                text = "sp needs ep: true and tp of 2 or more"
                errors.append(error_at(located, (*path, "layouts", i), text))
    return errors


def _sp_fits(layout: dict[str, Any]) -> bool:
    tp = layout.get("tp", 1)
    return layout.get("ep") is True and not (isinstance(tp, int) and tp < 2)


def _translate(
    error: ValidationError, located: yaml_positions.Located
) -> list[yaml_positions.YamlError]:
    """Return pydantic's errors in plain words, each with its place."""
    errors = []
    for detail in error.errors(include_url=False):
        path = tuple(part for part in detail["loc"] if part != "[key]")
        at_key = detail["type"] == "extra_forbidden" or "[key]" in detail["loc"]
        if path in located.empty:
            continue  # reported by `_empty`
        value = detail["input"]
        if detail["type"] == "list_type" and path[-2:-1] == ("shapes",):
            shapes = _value_at(located.value, path[:-1])
            if not any(isinstance(shape, list) for shape in shapes):
                path, value = path[:-1], shapes  # [8, 64, 64]: one error of the list
        text = _text(detail["type"], path, detail.get("ctx", {}), value) or detail["msg"]
        errors.append(error_at(located, path, text, key=at_key))
    return errors


def _text(kind: str, path: yaml_positions.Path, ctx: dict[str, Any], value: object) -> str | None:
    """Return one error in plain words, or None if pydantic's message is as clear."""
    item_of = path[-2] if len(path) > 1 else None
    if kind in ("too_short", "too_long", "list_type") and item_of == "shapes":
        return f"must be three numbers [m, n, k], not {short(value)}"
    if kind == "list_type":
        return f"must be {_list_text(str(path[-1]), value)}, not {short(value)}"
    if kind == "model_type" and item_of == "layouts":
        return f"must be a mapping such as {{dp: 2, tp: 1, ep: true}}, not {short(value)}"
    known = list(_model_at(path[:-1]).model_fields) if kind == "extra_forbidden" else []
    return plain(kind, path, ctx, value, known)


_LISTS = {"shapes": "[m, n, k]", "layouts": "mappings", "blocks": "mappings"}
_EXAMPLES = {"shapes": "[[32, 256, 128]]", "layouts": "[{dp: 2, ep: true}, {tp: 2}]"}


def _list_text(name: str, value: object) -> str:
    """Describe the list that a key takes, with `value` as the example if it only lacks brackets."""
    example = _EXAMPLES.get(name, "[a, b]")
    one_shape = name == "shapes" and isinstance(value, list) and len(value) == 3
    if one_shape or (name not in _LISTS and isinstance(value, str | int | float)):
        text = str(value).lower() if isinstance(value, bool) else str(value)
        example = f"[{text}]"
    kind = f"a list of {_LISTS[name]}" if name in _LISTS else "a list"
    return kind if name == "blocks" else f"{kind} such as {example}"


def _value_at(value: Any, path: yaml_positions.Path) -> Any:
    for part in path:
        value = value[part]
    return value


def _model_at(path: yaml_positions.Path) -> type[BaseModel]:
    """Return the model whose fields are the keys directly under `path`."""
    if "layouts" in path[1:]:
        return LayoutModel
    if "submodels" in path[1:]:
        return Submodel
    if "blocks" in path[2:]:
        return Block
    if path[:1] == ("defaults",):
        return Axes
    return Suite if path else MatrixConfig
