"""Tensors in POSIX shared memory of this machine, Triton's extension: off unless the operator names a prefix for keys.

State: regions by the name their client gave them, each an open file below /dev/shm. The danger is known (Triton's
CVE-2025-23319 began with the name of an internal region in an error): so only keys with the prefix can be registered,
the server's own memory has no names at all, and no error tells what exists. Regions are read and written as files and
never mapped: a client that shortens a mapped file kills whoever touches it.
"""

import os
import re
import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from server.errors import AlreadyExists, InvalidRequest, NotFound, Unimplemented
from server.messages import Buffer
from server.pb.open_inference_pb2 import InferParameter
from server.wire.parameters import whole_number
from server.wire.text import check_id, quote

REGION = "shared_memory_region"
BYTE_SIZE = "shared_memory_byte_size"
OFFSET = "shared_memory_offset"

_ROOT = Path("/dev/shm")  # noqa: S108 - where the system keeps POSIX shared memory
_KEY = re.compile(r"/[A-Za-z0-9_.-]{1,200}")
_MAX_REGIONS = 64
_MAX_BYTES = 1 << 40


@dataclass(frozen=True, slots=True)
class Region:
    """`byte_size` bytes from `offset` on of the shared memory object `key`."""

    name: str
    key: str
    offset: int
    byte_size: int
    descriptor: int


class SharedMemory:
    """The regions of one server; any thread."""

    def __init__(self, prefix: str, root: Path = _ROOT) -> None:
        self._prefix = prefix
        self._root = root
        self._lock = threading.Lock()  # held while a region is read, so that nobody closes it meanwhile
        self._regions: dict[str, Region] = {}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Open a region under a name.

        Raises:
            InvalidRequest: the key is not allowed, there is no such object, or it is shorter than that.
            AlreadyExists: the name is taken.
        """
        if not check_id(name, 256, "region name").strip():
            raise InvalidRequest("region name: expected a name, got none")
        if not _KEY.fullmatch(key) or not key.startswith(self._prefix):
            raise InvalidRequest(
                f"region {quote(name)}: expected a key that begins with {self._prefix}, got {quote(key)}"
            )
        if not 1 <= byte_size <= _MAX_BYTES or offset > _MAX_BYTES:
            raise InvalidRequest(f"region {quote(name)}: expected 1 to {_MAX_BYTES} bytes, got {byte_size} at {offset}")
        with self._lock:
            if name in self._regions:
                raise AlreadyExists(f"region {quote(name)} is registered already: unregister it first")
            if len(self._regions) >= _MAX_REGIONS:
                raise InvalidRequest(f"expected at most {_MAX_REGIONS} regions, got more")
            self._regions[name] = Region(name, key, offset, byte_size, self._open(name, key, offset + byte_size))

    def unregister(self, name: str) -> None:
        """Close a region, or with an empty name all of them; unknown names are no error, as in Triton."""
        with self._lock:
            for gone in [name] if name else list(self._regions):
                region = self._regions.pop(gone, None)
                if region is not None:
                    os.close(region.descriptor)

    def status(self, name: str) -> list[Region]:
        """Return one region, or with an empty name all of them. Raises NotFound."""
        with self._lock:
            if not name:
                return list(self._regions.values())
            return [self._find(name)]

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Return `size` bytes of a region. Raises NotFound, InvalidRequest."""
        with self._lock:
            region = self._within(name, offset, size)
            data = os.pread(region.descriptor, size, region.offset + offset)
        if len(data) != size:
            raise InvalidRequest(f"region {quote(name)}: expected {size} bytes at {offset}, got {len(data)}")
        return data

    def write(self, name: str, offset: int, data: Buffer) -> None:
        """Put bytes into a region. Raises NotFound, InvalidRequest."""
        with self._lock:
            region = self._within(name, offset, len(data))
            written = os.pwrite(region.descriptor, data, region.offset + offset)
        if written != len(data):
            raise InvalidRequest(f"region {quote(name)}: expected room for {len(data)} bytes, got {written}")

    def _open(self, name: str, key: str, needed: int) -> int:
        """Open a regular file that is long enough; the same sentence for every way in which it is not."""
        try:
            descriptor = os.open(self._root / key[1:], os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            raise self._unusable(name, needed) from None
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size < needed:
            os.close(descriptor)
            raise self._unusable(name, needed)
        return descriptor

    @staticmethod
    def _unusable(name: str, needed: int) -> InvalidRequest:
        return InvalidRequest(f"region {quote(name)}: expected a shared memory object of at least {needed} bytes")

    def _find(self, name: str) -> Region:
        region = self._regions.get(name)
        if region is None:
            raise NotFound(f"no shared memory region {quote(name)} is registered")
        return region

    def _within(self, name: str, offset: int, size: int) -> Region:
        region = self._find(name)
        if offset + size > region.byte_size:
            raise InvalidRequest(
                f"region {quote(name)}: expected at most {region.byte_size} bytes, got {size} from {offset} on"
            )
        return region


@dataclass(frozen=True, slots=True)
class Place:
    """Where in shared memory a tensor is, or is to be put."""

    memory: SharedMemory
    region: str
    offset: int
    byte_size: int

    def read(self) -> bytes:
        """Return the tensor's raw contents."""
        return self.memory.read(self.region, self.offset, self.byte_size)

    def write(self, data: Buffer) -> None:
        """Put a tensor's raw contents there. Raises InvalidRequest when they do not fit."""
        if len(data) > self.byte_size:
            raise InvalidRequest(
                f"region {quote(self.region)}: expected room for {len(data)} bytes of output, got {self.byte_size}"
            )
        self.memory.write(self.region, self.offset, data)


def place(parameters: Mapping[str, InferParameter], memory: SharedMemory | None, where: str, most: int) -> Place | None:
    """Return where a tensor's parameters say it is, at most `most` bytes; None where they name no region.

    Raises:
        InvalidRequest: the parameters are malformed.
        Unimplemented: this server takes no shared memory.
    """
    if REGION not in parameters:
        return None
    if memory is None:
        raise Unimplemented("this server takes no tensors in shared memory; send raw_input_contents")
    if parameters[REGION].WhichOneof("parameter_choice") != "string_param":
        raise InvalidRequest(f"{where}: {REGION}: expected string_param")
    if BYTE_SIZE not in parameters:
        raise InvalidRequest(f"{where}: expected {BYTE_SIZE} with {REGION}, got none")
    size = whole_number(parameters[BYTE_SIZE], f"{where}: {BYTE_SIZE}", 1, most)
    offset = whole_number(parameters[OFFSET], f"{where}: {OFFSET}", 0, _MAX_BYTES) if OFFSET in parameters else 0
    return Place(memory, parameters[REGION].string_param, offset, size)
