"""One process at a time writes a run's folder: an advisory lock on the folder itself, which ends with the process."""

from __future__ import annotations

import errno
import fcntl
import os
import warnings
import weakref
from pathlib import Path
from typing import final

_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)
_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()


@final
class FolderLock:
    """Held from when it is made until ``release``, or until this process ends in whatever way."""

    def __init__(self, folder: Path):
        """ValueError if another process holds it. Where the file system knows no locks, a warning says so."""
        self._descriptor: int | None = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            if error.errno in _TAKEN:
                raise ValueError(
                    f"another process is training in {folder}: wait until it ends, or name a new folder"
                ) from None
            warnings.warn(
                f"{folder} lies where nothing can be locked ({error.strerror}): see that no other process trains in it",
                stacklevel=2,
            )
        _held.add(self)

    def release(self) -> None:
        """Let others have the folder. Twice does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _release_all() -> None:
    for lock in list(_held):
        lock.release()


# A helper process that outlives its parent must not keep the parent's folder locked.
os.register_at_fork(after_in_child=_release_all)
