"""Stand in for Slurm's `srun`: start a command once for each task, all on this machine.

As with srun, each task gets the whole input and its node's name, and SIGTERM ends the tasks. Their
process ids are written to the file named by FAKE_SRUN_TASKS.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path


def main(argv):
    options = dict(word.split("=") for word in argv if word.startswith("--") and "=" in word)
    command = argv[next(i for i, word in enumerate(argv) if not word.startswith("--")) :]
    env = {**os.environ, "SLURMD_NODENAME": "localhost"}
    text = sys.stdin.buffer.read()
    count = int(options["--ntasks"])
    tasks = [subprocess.Popen(command, env=env, stdin=subprocess.PIPE) for _ in range(count)]
    signal.signal(signal.SIGTERM, lambda *_: [task.terminate() for task in tasks])
    Path(os.environ["FAKE_SRUN_TASKS"]).write_text(" ".join(str(task.pid) for task in tasks))
    for task in tasks:
        task.stdin.write(text)
        task.stdin.close()
    return max(abs(task.wait()) for task in tasks)


sys.exit(main(sys.argv[1:]))
