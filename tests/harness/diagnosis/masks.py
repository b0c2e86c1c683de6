"""Masks of wrong rows, and the texts of patterns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from harness.diagnosis import patterns


def mask(total: int, wrong: range | list[int]) -> torch.Tensor:
    found = torch.zeros(total, dtype=torch.bool)
    found[list(wrong)] = True
    return found


def texts(found: list[patterns.Pattern]) -> list[str]:
    return [pattern.text for pattern in found]
