"""Mend xdist's scheduling by scope, file and group where a worker dies.

xdist 3.8.0 runs the test that killed a worker again in the next one, and waits without end where
the last group has one test left: a worker starts a test only once it knows the next, or that there
is none. `load` and `worksteal` have neither fault.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xdist.scheduler import LoadFileScheduling, LoadGroupScheduling, LoadScopeScheduling

if TYPE_CHECKING:
    import pytest
    from xdist.workermanage import WorkerController


class SurvivesDeaths(LoadScopeScheduling):  # type: ignore[misc]
    """Run no test twice, and tell the worker that takes over when it has all tests."""

    def remove_node(self, node: WorkerController) -> str | None:
        """Return the test that a worker was running, or None, and hand out what it had left."""
        groups = self.assigned_work.pop(node)
        unfinished = [
            (str(group), str(test))
            for group, tests in groups.items()
            for test, is_done in tests.items()
            if not is_done
        ]
        if not unfinished:
            return None
        group, crashed = unfinished[0]
        groups[group][crashed] = True  # its outcome: the worker died
        repeated = {name: tests for name, tests in groups.items() if not all(tests.values())}
        self.workqueue.update(repeated)
        for other in self.nodes:
            self._reschedule(other)
        return crashed

    def schedule(self) -> None:
        """Hand out tests; a worker that came later gets two groups, or learns that it has all."""
        is_first = self.collection is None
        super().schedule()
        for node in [] if is_first else self.nodes:
            self._reschedule(node)

    def _reschedule(self, node: WorkerController) -> None:
        if node in self.registered_collections:  # otherwise it is still collecting
            super()._reschedule(node)


class ByScope(SurvivesDeaths):
    """Schedule as `--dist loadscope` does."""


class ByFile(SurvivesDeaths, LoadFileScheduling):  # type: ignore[misc]
    """Schedule as `--dist loadfile` does."""


class ByGroup(SurvivesDeaths, LoadGroupScheduling):  # type: ignore[misc]
    """Schedule as `--dist loadgroup` does."""


MENDED: dict[str, type[SurvivesDeaths]] = {
    "loadscope": ByScope,
    "loadfile": ByFile,
    "loadgroup": ByGroup,
}


def mended(config: pytest.Config, log: Any) -> SurvivesDeaths | None:
    """Return a scheduler in place of xdist's, or None where xdist's own will do."""
    kind = MENDED.get(config.getvalue("dist"))
    return None if kind is None else kind(config, log)
