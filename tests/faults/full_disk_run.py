"""A run whose temporary folder is a file system of one MiB that its first case fills.

Runs in a mount namespace of its own, see test_full_disk.py; the folder is $TMPDIR. Arguments: the
folder for logs, on another file system. Prints the verdict and the first message of each case.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from moe.spec import MemberSpec
from tests.harness.fixtures.leaky_members import NEEDS, Good

CASES = 3  # that run after the first


class FillsTheDisk(Good):
    """Writes until there is no room, and leaves it so."""

    def alter(self):
        with (Path(os.environ["TMPDIR"]) / "full").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)


FillsTheDisk.row = MemberSpec(
    name="fills_the_disk", target="tests.faults.full_disk_run:FillsTheDisk", needs=NEEDS
)


def main(folder: Path) -> None:
    from tests.harness.engine.engine_tools import events_of, plan, results
    from tests.harness.fixtures.test_case_watch import TWO, a_case

    first = a_case("Good", **TWO).replace(experts=FillsTheDisk.row.target)
    cases = [first, *(a_case("Good", m=9 + i, **TWO) for i in range(CASES))]
    ended = results(events_of(plan(*cases), folder, executor="harness.execute:run_case"))
    print(json.dumps([[str(r.verdict), *r.messages[:1]] for r in ended.values()]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
