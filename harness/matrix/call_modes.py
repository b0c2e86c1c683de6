"""How a layer can be called: the table of call modes, by name."""

from __future__ import annotations

EAGER = "eager"
SMALL_TILES = "small_tiles"
# "package.module:Class" of a `harness.fixtures.call_mode.CallMode`, imported on a rank.
CALL_MODES = {
    EAGER: "harness.fixtures.call_mode:Eager",
    SMALL_TILES: "harness.fixtures.call_mode:SmallTiles",
    "strided": "harness.fixtures.call_mode:Strided",
}
