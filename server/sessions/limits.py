"""What a session child may use, set by the child on itself, and how many cores there are to share.

Numbers come from the kernel (affinity, cgroups, /proc), never from `os.cpu_count`, which counts the machine's cores
and not ours. Never knows what the limits are for.
"""

import os
import resource
import signal
from pathlib import Path

LOAD_FACTOR = 8
"""Address space that opening a model may take, in sizes of its file: parsed graph, optimised copy, packed weights."""

_CGROUP = Path("/sys/fs/cgroup")


def cores() -> int:
    """Return how many cores this process may keep busy: its affinity mask, cut by the cgroup's CPU quota."""
    available = len(os.sched_getaffinity(0))
    quota = cpu_quota(_CGROUP)
    return available if quota is None else max(1, min(available, int(quota)))


def cpu_quota(root: Path) -> float | None:
    """Return the CPU quota of the cgroup mounted at `root` in cores, version 2 or 1; None for no limit."""
    unified = _read(root / "cpu.max").split()
    if len(unified) == 2:
        return None if unified[0] == "max" else int(unified[0]) / int(unified[1])
    quota, period = _read(root / "cpu/cpu.cfs_quota_us"), _read(root / "cpu/cpu.cfs_period_us")
    if not quota or not period or int(quota) <= 0:
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def before_load(seconds: float, headroom_bytes: int, model_bytes: int) -> None:
    """Bound what opening a model may take; the alarm ends us even where onnxruntime holds the interpreter's lock.

    No headroom means no bound, as CUDA needs it: it reserves address space by the terabyte.
    """
    signal.setitimer(signal.ITIMER_REAL, seconds)
    if headroom_bytes:
        _limit_address_space(headroom_bytes + LOAD_FACTOR * model_bytes)


def after_load(headroom_bytes: int, area_bytes: int, *, unlimited: bool) -> None:
    """Take the alarm back and leave `headroom_bytes` above what is mapped now, and room for the areas to grow.

    `unlimited` lifts it again, for CUDA.
    """
    signal.setitimer(signal.ITIMER_REAL, 0)
    if unlimited:
        _set(resource.RLIM_INFINITY)
    elif headroom_bytes:
        _limit_address_space(headroom_bytes + area_bytes)


def resident_bytes() -> int:
    """Return the memory of this process that is in RAM and its own, files and shared areas left out."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return (int(pages[1]) - int(pages[2])) * resource.getpagesize()


def _limit_address_space(above_bytes: int) -> None:
    mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    _set(mapped + above_bytes)


def _set(size: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard != resource.RLIM_INFINITY and (size == resource.RLIM_INFINITY or size > hard):
        size = hard
    resource.setrlimit(resource.RLIMIT_AS, (size, hard))
