"""tests/ lies in the rooms of harness/ and moe/: a test file for each module with behaviour."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
ROOMS = ("harness", "moe")
MEMBER_FOLDERS = ("moe/activations", "moe/formats", "moe/routers")  # a folder for each member
_CHIP = "a member: tests/moe/platforms/test_platforms.py"
# Module -> why it has no test file of its own. Each entry is a module that would need one.
WITHOUT_A_FILE: dict[str, str] = {
    "moe/all2all/base.py": "abstract: each member is run by tests/moe/all2all/test_all2all.py",
    "moe/formats/codec.py": "abstract: each codec is run by tests/moe/formats/test_formats.py",
    "moe/kernels/scaled_dot.py": "kernels' functions: tests/moe/kernels/test_grouped_gemm.py",
    "moe/platforms/cuda_sm80.py": _CHIP,
    "moe/platforms/cuda_sm90.py": _CHIP,
    "moe/platforms/cuda_sm100.py": _CHIP,
    "moe/platforms/cuda_sm120.py": _CHIP,
    "moe/platforms/rocm_gfx942.py": _CHIP,
    "moe/platforms/rocm_gfx950.py": _CHIP,
}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def has_behaviour(source: str) -> bool:
    """Tell whether a module has a public function, or a class with a public method.

    Protocols, enums, dataclasses and tables without methods are tested where they are used.
    """
    return any(_is_behaviour(node) for node in ast.parse(source).body)


def _is_behaviour(node: ast.stmt) -> bool:
    if isinstance(node, ast.ClassDef):
        is_protocol = any("Protocol" in ast.unparse(base) for base in node.bases)
        return not is_protocol and any(_is_behaviour(statement) for statement in node.body)
    return isinstance(node, FUNCTIONS) and (
        not node.name.startswith("_") or node.name == "__call__"
    )


def test_file_of(module: str) -> str:
    """Return where the tests of a module lie; a package and a member's folder have one file."""
    path = Path(module)
    if path.parent.parent.as_posix() in MEMBER_FOLDERS:
        path = path.parent.with_suffix(".py")
    name = path.parent.name if path.stem == "__init__" else path.stem
    return (Path("tests") / path.parent / f"test_{name}.py").as_posix()


test_file_of.__test__ = False  # type: ignore[attr-defined]


def untested(root: Path, rooms: tuple[str, ...]) -> Iterator[str]:
    """Yield the modules of the rooms that have behaviour and no test file."""
    for room in rooms:
        for path in sorted((root / room).rglob("*.py")):
            module = path.relative_to(root).as_posix()
            if has_behaviour(path.read_text()) and not (root / test_file_of(module)).exists():
                yield module


@pytest.mark.parametrize("room", ROOMS)
def test_each_module_with_behaviour_has_its_test_file(room):
    lacking = {module: test_file_of(module) for module in untested(ROOT, (room,))}
    assert {m: file for m, file in lacking.items() if m not in WITHOUT_A_FILE} == {}


def test_each_exception_is_a_module_that_would_need_a_file():
    assert WITHOUT_A_FILE.keys() <= set(untested(ROOT, ROOMS))
    assert all(WITHOUT_A_FILE.values())


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def run(): ...", True),
        ("async def run(): ...", True),
        ("class A:\n    def run(self): ...", True),
        ("class A:\n    def __call__(self): ...", True),
        ("class A(Protocol):\n    def run(self): ...", False),
        ("class A:\n    x: int\n    def __init__(self): ...", False),
        ("def _run(): ...", False),
        ("TABLE = {'a': 1}", False),
    ],
)
def test_what_is_behaviour(source, expected):
    assert has_behaviour(source) is expected


def test_a_module_without_a_file_is_found_in_any_depth(tmp_path):
    for name in ("room/__init__", "room/plain", "room/fast", "room/inner/slow"):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("X = 1" if name == "room/plain" else "def run(): ...")
    for name in ("room/test_fast", "room/test_room"):
        path = tmp_path / f"tests/{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    assert list(untested(tmp_path, ("room",))) == ["room/inner/slow.py"]
    (tmp_path / "tests/room/test_room.py").unlink()
    assert list(untested(tmp_path, ("room",))) == ["room/__init__.py", "room/inner/slow.py"]


def modules_named(source: str) -> list[str]:
    """Return the modules that a package's docstring lists: "    name  what it has"."""
    text = ast.get_docstring(ast.parse(source)) or ""
    return re.findall(r"^    (\w+)  +\S", text, re.MULTILINE)


@pytest.mark.parametrize("room", ["diagnosis", "engine", "fixtures", "matrix", "plan", "record"])
def test_the_modules_where_to_start_exist(room):
    folder = ROOT / "harness" / room
    names = modules_named((folder / "__init__.py").read_text())
    assert len(names) >= 4
    assert [name for name in names if not (folder / f"{name}.py").exists()] == []
