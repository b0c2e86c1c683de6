"""The routers: the table. One row and one folder a router."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.registry import Registry
from moe.routers.sigmoid.spec import SIGMOID
from moe.routers.softmax.spec import SOFTMAX

if TYPE_CHECKING:
    from moe.routers.base import RouterSpec

ROUTERS: Registry[RouterSpec] = Registry("routers", (SOFTMAX, SIGMOID))
