"""Locks of files, held by the kernel: a lock ends with the process that holds it, however that ends."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:                                       # Windows has other locks; nothing is locked there
    fcntl = None


def take(file: IO) -> bool:
    """Locks an open file for as long as it stays open. False if another one has locked it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:                                       # a file system without locks
        pass
    return True


@contextlib.contextmanager
def held(path: str | Path) -> Iterator[None]:
    """Waits for the lock of a file, which is made if it is missing, and holds it."""
    with open(path, "a") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def append_line(path: str | Path, line: str) -> None:
    """Adds a line to a file that several processes may write: behind whole lines only, and on the disk when this returns. Its
    folder is made if it is missing."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        cut = b""                                         # an earlier line may have been cut off, by a full disk
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            cut = b"" if file.read(1) == b"\n" else b"\n"
        file.write(cut + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
