"""The program that session children are forked from: `python -m server.sessions.zygote FD`.

Importing Python's and ONNX Runtime's libraries takes a core a fifth of a second; a fork takes milliseconds, and the
pages of what was imported are shared. So a new version disturbs those that serve less, a dead child is back sooner,
and the server itself, which has threads, never forks. This process holds no model and runs nothing. It has one thread,
which is what makes forking it sound; should a library start another, children are programs of their own again. It ends
with the socket to the server. Its children do not: they end when the server does, whatever becomes of this.

Each packet on the socket asks for a child; it carries the size limit of the areas and the descriptors that are the
child's own, the last of which is for us: a socket on which we tell its process id, with a pidfd, and later its status.
"""

import gc
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

from server.sessions import child
from server.sessions.frames import WORD, pack, unpack

DESCRIPTORS = 7
"""data, control, model, inputs, outputs, errors, report."""


class Zygote:
    """Children by pidfd, each with its process id and the socket on which its end is reported."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._children: dict[int, tuple[int, socket.socket]] = {}
        self._poll = select.poll()
        self._poll.register(orders, select.POLLIN)
        self._alone = len([*Path("/proc/self/task").iterdir()]) == 1

    def serve(self) -> None:
        """Fork and reap until the server is gone."""
        while True:
            for fd, _ in self._poll.poll():
                if fd != self._orders.fileno():
                    self._reap(fd)
                elif not self._obey():
                    return

    def _obey(self) -> bool:
        """Carry out one order; False when there will be no more. A child that cannot be had is a report that ends."""
        packet, fds, _, _ = socket.recv_fds(self._orders, WORD, DESCRIPTORS)
        if not packet:
            return False
        if len(fds) < DESCRIPTORS:  # we have too many open to take them all
            _close(fds)
            return True
        *own, report_fd = fds
        report = socket.socket(fileno=report_fd)
        try:
            self._fork(own, report, *unpack(packet))
        except OSError:
            report.close()
        _close(own)
        return True

    def _fork(self, own: list[int], report: socket.socket, area_limit: int) -> None:
        pid = os.fork()
        if pid == 0:
            report.close()
            self._become_child(own, area_limit)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid, report
        self._poll.register(pidfd, select.POLLIN)
        with suppress(OSError):  # nobody waits for it any more, which it hears of itself
            socket.send_fds(report, [pack((pid,))], [pidfd])

    def _become_child(self, own: list[int], area_limit: int) -> None:
        """Run the child's program, in this image or where that is not sound in a new one; never returns."""
        os.setsid()
        self._orders.close()
        for pidfd, (_, report) in self._children.items():
            os.close(pidfd)
            report.close()
        *own, errors = own
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        os.close(errors)
        arguments = list(map(str, [*own, area_limit]))
        if self._alone:
            child.start(arguments)
        for fd in own:
            os.set_inheritable(fd, True)  # noqa: FBT003  (the standard library's own)
        program = ["-P", "-X", "faulthandler", "-m", "server.sessions.child"]
        os.execv(sys.executable, [sys.executable, *program, *arguments])  # noqa: S606  (our own module)

    def _reap(self, pidfd: int) -> None:
        pid, report = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        _, status = os.waitpid(pid, 0)
        os.close(pidfd)
        with report, suppress(OSError):
            report.send(pack((os.waitstatus_to_exitcode(status),)))


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def main(arguments: list[str]) -> None:
    """Serve the socket whose descriptor is the only argument."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the server decides when we end, whoever signals the group
    Path("/proc/self/comm").write_text("sluice-zygote", encoding="ascii")
    gc.collect()
    gc.freeze()  # what is there now stays shared with every child: no collector of theirs touches it
    Zygote(socket.socket(fileno=int(arguments[0]))).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
