"""Memory that a process instance and its child both map: one area for inputs, one for outputs.

An anonymous memfd, so there is no name to collide with, to guess or to leave behind. Its writer grows it; the
reader maps more when a message says so. The file is sealed against shrinking: a child gone mad cannot make the
parent touch pages that are no longer there (SIGBUS). Never knows what the bytes mean.
"""

import fcntl
import mmap
import os
from contextlib import suppress

FIRST_BYTES = 64 << 10
KEPT_BYTES = 16 << 20
SMALL_BATCHES = 256
"""Pages beyond `KEPT_BYTES` go back to the system after this many batches in a row that did without them."""

ALIGNMENT = 64
"""Every tensor starts on a cache line, which is what ONNX Runtime's kernels like best."""


def align(offset: int) -> int:
    """Return the first aligned offset at or behind `offset`."""
    return (offset + ALIGNMENT - 1) & -ALIGNMENT


class Area:
    """One shared mapping. `view` is replaced when the area grows: take it anew for each batch.

    Not thread-safe: a batch has one writer, then one reader.
    """

    def __init__(self, fd: int, limit: int) -> None:
        self.fd = fd
        self.limit = limit
        self._map = mmap.mmap(fd, os.fstat(fd).st_size)
        self._small_batches = 0
        self.view = memoryview(self._map)

    @classmethod
    def create(cls, limit: int) -> "Area":
        """Return a new area that may grow to `limit` bytes."""
        fd = os.memfd_create("sluice", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, FIRST_BYTES)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        return cls(fd, limit)

    @property
    def size(self) -> int:
        """Bytes mapped."""
        return len(self.view)

    def grow(self, size: int) -> bool:
        """Make room for `size` bytes, doubling; False when that is over the limit. Loses the old `view`."""
        if size > self.limit:
            return False
        target = FIRST_BYTES
        while target < size:
            target *= 2
        os.ftruncate(self.fd, target)
        self._remap(target)
        return True

    def follow(self, size: int) -> None:
        """Map the `size` bytes that the other end has grown the area to.

        Raises:
            ValueError: the file is shorter than that.
        """
        if size > self.size:
            self._remap(size)

    def settle(self, used: int) -> None:
        """Hear how much of the area a batch took; pages that no recent batch needed go back to the system."""
        self._small_batches = self._small_batches + 1 if used <= KEPT_BYTES else 0
        if self._small_batches == SMALL_BATCHES and self.size > KEPT_BYTES:
            self._map.madvise(mmap.MADV_REMOVE, KEPT_BYTES, self.size - KEPT_BYTES)

    def close(self) -> None:
        """Unmap and close. Idempotent."""
        if self.fd >= 0:
            self._unmap()
            os.close(self.fd)
            self.fd = -1

    def _remap(self, size: int) -> None:
        fresh = mmap.mmap(self.fd, size)
        self._unmap()
        self._map = fresh
        self.view = memoryview(fresh)

    def _unmap(self) -> None:
        self.view.release()
        with suppress(BufferError):  # somebody still looks at a slice; the mapping goes when the slice does
            self._map.close()
