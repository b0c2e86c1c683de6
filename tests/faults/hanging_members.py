"""Experts that never come back, with a child in a session of its own."""

from __future__ import annotations

import subprocess
import sys
import time

from moe.spec import MemberSpec
from tests.harness.fixtures.leaky_members import NEEDS, Good

SLEEP = "6002.5"  # seconds, by which tests know the children


class Hangs(Good):
    def alter(self):
        subprocess.Popen(
            [sys.executable, "-c", f"import time; time.sleep({SLEEP})"], start_new_session=True
        )
        time.sleep(600)


Hangs.row = MemberSpec(name="hangs", target=f"{__name__}:Hangs", needs=NEEDS)
