"""A controller for tests that kill one: its case leaves a setsid grandchild behind and hangs."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[3])]

from harness.engine.run_options import RunOptions  # noqa: E402
from harness.engine.scheduler import run  # noqa: E402
from tests.harness.engine.engine_faults import case  # noqa: E402 - the search path comes first
from tests.harness.engine.engine_tools import EXECUTOR, plan  # noqa: E402


def main(log_dir: str, holds_fds: bool) -> None:
    faulty = case("grandchild_and_hang")
    for event in run(plan(faulty, limit=300), RunOptions(log_dir=Path(log_dir), executor=EXECUTOR)):
        if holds_fds and type(event).__name__ == "GangStarted" and os.fork() == 0:
            os.environ.clear()
            time.sleep(20)  # keeps the controller's ends of all channels open
            os._exit(0)
        print(type(event).__name__, flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1], holds_fds="fork" in sys.argv)
    except KeyboardInterrupt:
        sys.exit(130)
