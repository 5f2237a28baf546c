"""What this machine's GPUs do, asked of NVIDIA's management library (NVML) while metrics are read.

The home of pynvml (nvidia-ml-py), which is optional: without it, or without a driver, there is nothing to tell and one
line in the log says why. A GPU in trouble makes NVML fail or hang, so every question may fail by itself, and a reading
runs on a thread of its own for which a scrape waits `PATIENCE` seconds at most; the next scrape waits for the same one.
Never on a request's way. This module must never know models, sessions or metrics.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from server import log

PATIENCE = 1.0
"""Seconds a scrape waits for NVML, a tenth of what Prometheus grants a scrape."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device; None is what it cannot tell, or did not this time."""

    uuid: str
    utilization: float | None = None
    """Share of the last sample period (up to a second) in which a kernel ran, 0 to 1."""
    memory_total: float | None = None
    """Bytes."""
    memory_used: float | None = None
    """Bytes, by every process and the driver."""
    power_usage: float | None = None
    """Watts."""
    power_limit: float | None = None
    """Watts, as it is enforced."""
    energy: float | None = None
    """Joules since the driver was loaded."""
    temperature: float | None = None
    """Degrees Celsius."""


@dataclass(frozen=True, slots=True)
class GpuReading:
    """What one scrape hears; `errors` counts the questions left unanswered since the start, None without NVML."""

    gpus: tuple[Gpu, ...] = ()
    errors: int | None = None


@dataclass(slots=True)
class _Question:
    """A reading under way."""

    gpus: list[Gpu] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)


class GpuReader:
    """Reads all GPUs that the driver shows to this process. `read` may be called from any thread, several at once."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._lock = threading.Lock()
        self._asking: _Question | None = None
        self._nvml: Any = None
        self._errors = 0
        self._last_problem = ""

    def read(self) -> GpuReading:
        """Return what the GPUs say now; blocks for `patience` seconds at most and never raises."""
        with self._lock:
            asking = self._asking
            if asking is None:
                asking = self._asking = _Question()
                threading.Thread(target=self._answer, args=(asking,), name="gpu", daemon=True).start()
        in_time = asking.done.wait(self._patience)
        if not in_time:
            with self._lock:
                self._note([f"no answer within {self._patience:g} s"])
        errors = self._errors if self._nvml is not None or self._errors else None
        return GpuReading(tuple(asking.gpus) if in_time else (), errors)

    def _answer(self, asking: _Question) -> None:
        try:
            if self._nvml is None:
                self._nvml = self._open()
            if self._nvml is not None:
                _ask(self._nvml, asking)
        except Exception as error:  # noqa: BLE001 - an isolation point: a driver in trouble must not break /metrics
            asking.problems.append(str(error) or repr(error))
        with self._lock:
            self._asking = None
            if self._nvml is not None:
                self._note(asking.problems)
        asking.done.set()

    def _open(self) -> Any:  # noqa: ANN401 - the module pynvml, which has no types
        """Return the library once it works, None while it does not; a driver may be loaded later."""
        try:
            import pynvml  # noqa: PLC0415 - optional
        except ImportError:
            self._tell(logging.DEBUG, "gpu_metrics_off", "nvidia-ml-py is not installed")
            return None
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            self._tell(logging.INFO, "gpu_metrics_off", str(error))
            return None
        return pynvml

    def _note(self, problems: list[str]) -> None:
        """Count what went wrong in a reading and log it when it is news; under the lock."""
        self._errors += len(problems)
        if problems:
            self._tell(logging.WARNING, "gpu_metrics_failing", problems[0])
        else:
            self._last_problem = ""

    def _tell(self, level: int, event: str, why: str) -> None:
        if why != self._last_problem:
            self._last_problem = why
            log.event(event, level, why=why)


def _ask(nvml: Any, asking: _Question) -> None:  # noqa: ANN401 - see _open
    """Ask every device everything; one that is lost leaves the others their answers."""
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            uuid = nvml.nvmlDeviceGetUUID(handle)
        except nvml.NVMLError as error:
            asking.problems.append(f"GPU {index}: {error}")
        else:
            asking.gpus.append(_gpu(nvml, handle, uuid, asking.problems))


def _gpu(nvml: Any, handle: Any, uuid: str, problems: list[str]) -> Gpu:  # noqa: ANN401 - see _open
    silent = (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND)

    def ask(question: Callable[..., Any], *more: int) -> Any:  # noqa: ANN401 - see _open
        try:
            return question(handle, *more)
        except nvml.NVMLError as error:
            if error.value not in silent:
                problems.append(f"{uuid}: {error}")
            return None

    def scaled(value: int | None, unit: float) -> float | None:
        return None if value is None else value * unit

    load, memory = ask(nvml.nvmlDeviceGetUtilizationRates), ask(nvml.nvmlDeviceGetMemoryInfo)
    return Gpu(
        uuid,
        utilization=scaled(load and load.gpu, 0.01),
        memory_total=memory and memory.total,
        memory_used=memory and memory.used,
        power_usage=scaled(ask(nvml.nvmlDeviceGetPowerUsage), 0.001),
        power_limit=scaled(ask(nvml.nvmlDeviceGetEnforcedPowerLimit), 0.001),
        energy=scaled(ask(nvml.nvmlDeviceGetTotalEnergyConsumption), 0.001),
        temperature=ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
    )
