"""Tests of kernels make their tensors where the kernels run, unless they name a device."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _tensors_where_kernels_run(on_kernel_device: None) -> None:
    """Do so in each test of this folder."""
