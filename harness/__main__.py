"""`python -m harness`."""

import sys

from harness.cli import program

if __name__ == "__main__":
    sys.exit(program())
