"""One fault and one healthy case in torch's own MultiProcessTestCase; see reliability.py.

It imports expecttest, which is no requirement of torch.
"""

from __future__ import annotations

from reliability_peers import WORLD, do_fault
from torch.testing._internal.common_distributed import MultiProcessTestCase


class TestMultiProcess(MultiProcessTestCase):
    @property
    def world_size(self) -> int:
        return WORLD

    def setUp(self) -> None:
        super().setUp()
        self._spawn_processes()

    def test_fault(self) -> None:
        do_fault("fault", self.rank, WORLD, self.file_name)

    def test_healthy(self) -> None:
        do_fault("healthy", self.rank, WORLD, self.file_name)
