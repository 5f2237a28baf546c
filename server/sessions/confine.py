"""Takes away from a session child what it never needs: the network, other programs, other processes.

A model file is data from elsewhere that a large C++ library interprets. Should one ever take the process over, it
finds itself with a pair of sockets to us, the files the user may read, and nowhere to send them. Linux seccomp in its
plainest form: a list of system calls that answer EPERM from now on, in every thread, for good.
"""

import ctypes
import errno
import os
import struct

_ARCHITECTURES: dict[str, tuple[int, int, tuple[int, ...]]] = {
    # machine: (AUDIT_ARCH, number of the seccomp call, numbers of: socket connect accept bind listen accept4 execve
    # execveat ptrace process_vm_readv process_vm_writev mount setns unshare bpf io_uring_setup)
    "x86_64": (0xC000003E, 317, (41, 42, 43, 49, 50, 288, 59, 322, 101, 310, 311, 165, 308, 272, 321, 425)),
    "aarch64": (0xC00000B7, 277, (198, 203, 202, 200, 201, 242, 221, 281, 117, 270, 271, 40, 268, 97, 280, 425)),
}
_OTHER_ABI = 0x40000000
"""System call numbers from here on are x32's, another way to the same calls."""

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _ALL_THREADS = 1, 1
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE = 0, 4


def confine() -> bool:
    """Confine this process; False where the kernel or the machine cannot do it, and nothing has changed."""
    if os.uname().machine not in _ARCHITECTURES:
        return False
    architecture, call, refused = _ARCHITECTURES[os.uname().machine]
    program = b"".join(_filter(architecture, refused))
    code = ctypes.create_string_buffer(program, len(program))
    descriptor = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.syscall(call, _SET_MODE_FILTER, _ALL_THREADS, descriptor) == 0)


def _filter(architecture: int, refused: tuple[int, ...]) -> list[bytes]:
    """Return a classic BPF program over seccomp_data: refuse another architecture, another ABI and the listed calls."""
    last = len(refused) + 4
    checks = [_step(_IF_EQUAL, number, last - at, 0) for at, number in enumerate(refused, start=4)]
    return [
        _step(_LOAD, _ARCHITECTURE),
        _step(_IF_EQUAL, architecture, 0, last - 1),
        _step(_LOAD, _NUMBER),
        _step(_IF_AT_LEAST, _OTHER_ABI, last - 3, 0),
        *checks,
        _step(_RETURN, _ALLOW),
        _step(_RETURN, _REFUSE),
    ]


def _step(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", operation, if_true, if_false, value)
