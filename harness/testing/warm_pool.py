"""Hold this process's warm processes, from which ranks are forked: one pool for all of its tests.

They stay until this process ends, however it ends, so only the first ranks pay for importing torch.
"""

from __future__ import annotations

import atexit
import os
import threading

from harness.engine.forkserver_pool import Pool


class WarmPool:
    """Hold this process's pool; a forked child creates its own.

    held: file descriptors that the pool's guardian keeps open, see Pool. lock: is taken by a call
    that needs the pool for itself.
    """

    pool: Pool | None = None
    held: tuple[int, ...] = ()
    lock = threading.Lock()

    @classmethod
    def get(cls) -> Pool:
        """Return the pool; a new one if there is none, or if its guardian was killed."""
        old = cls.pool
        if old is None or old.controller != os.getpid() or old.guardian.poll() is not None:
            if old is not None and old.controller == os.getpid():
                old.close()
            cls.pool = Pool(cls.held)
        assert cls.pool is not None
        return cls.pool


@atexit.register
def shutdown() -> None:
    """End the warm processes now, instead of at the end of this process."""
    pool, WarmPool.pool = WarmPool.pool, None
    if pool is not None and pool.controller == os.getpid():
        pool.close()
