"""The test harness: from `configs/matrix.yaml` to verdicts; see `docs/how-it-works.md`.

The public names are imported on use, so that `import harness` costs nothing and needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.matrix.case import MoETestConfig
    from harness.testing.assert_close import assert_close
    from harness.testing.parallel_launch import RankFailure, parallel_launch
    from harness.testing.spawn import spawn

__all__ = ["MoETestConfig", "RankFailure", "assert_close", "parallel_launch", "spawn"]

_HOME = {
    "MoETestConfig": "harness.matrix.case",
    "RankFailure": "harness.testing.parallel_launch",
    "assert_close": "harness.testing.assert_close",
    "parallel_launch": "harness.testing.parallel_launch",
    "spawn": "harness.testing.spawn",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
