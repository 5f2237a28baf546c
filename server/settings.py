"""The server's configuration: one frozen value, parsed once, refused loudly.

Each field below is a flag (`--grpc-port`), an environment variable (`SLUICE_GRPC_PORT`) and a row of the README's
table; the flag wins over the variable, the variable over the default. Nothing else in the server reads the environment.
Secrets come in files, never in flags, because anybody can read /proc/PID/cmdline.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin
from urllib.parse import urlsplit

Role = Literal["all", "frontend", "worker"]
Device = Literal["auto", "cpu", "cuda"]
Control = Literal["none", "poll", "explicit"]
Isolation = Literal["process", "none"]
TransportName = Literal["auto", "lean", "aio"]
LogFormat = Literal["auto", "json", "text"]
LogLevel = Literal["debug", "info", "warning", "error"]


class InvalidSettings(Exception):
    """A flag, variable or file is wrong; the text is the one line that goes to stderr before exit code 2."""


def _setting(default: object, text: str, *, low: float | None = None, high: float | None = None) -> Any:  # noqa: ANN401
    return field(default=default, metadata={"help": text, "low": low, "high": high})


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything an operator can decide. Durations are seconds."""

    role: Role = _setting("all", "all: one process does everything; frontend or worker: the two ends of a Redis queue")
    queue: str = _setting("memory", "memory, or redis://HOST:PORT/DB (rediss:// for TLS)")
    redis_password_file: Path | None = _setting(None, "file holding the password of the Redis queue")
    allow_volatile: bool = _setting(False, "go on with a Redis that may lose what it acknowledged")
    model_store: Path = _setting(Path("model_store"), "directory of models, in Triton's repository layout")
    host: str = _setting("127.0.0.1", "address to listen on; 0.0.0.0 for every interface")
    grpc_port: int = _setting(8001, "gRPC port, 0 for any free one", low=0, high=65535)
    http_port: int = _setting(8000, "HTTP port (KServe v2 REST), 0 for any free one", low=0, high=65535)
    metrics_port: int = _setting(8002, "port of /metrics, /livez and /readyz, 0 for any free one", low=0, high=65535)
    device: Device = _setting("auto", "auto: GPU where there is one; cuda: refuse to start without")
    model_control: Control = _setting("none", "none: load all at start; poll: watch the store; explicit: on request")
    load_model: tuple[str, ...] = _setting(
        (), "models that --model-control explicit loads at start, comma separated; * for all"
    )
    poll_seconds: float = _setting(5.0, "how often --model-control poll looks", low=0.05, high=3600)
    strict_readiness: bool = _setting(True, "ready only when every model loaded")
    isolation: Isolation = _setting("process", "process: sessions run in children that may die; none: in this process")
    intra_op_threads: int = _setting(
        0, "threads of each session; 0 divides the cores among the sessions", low=0, high=512
    )
    max_batch_size: int = _setting(128, "largest batch tried where a model's config names none", low=1, high=4096)
    max_queue_size: int = _setting(
        4096, "requests that may wait per model where its config names none", low=1, high=1e6
    )
    max_inflight_mb: int = _setting(512, "bytes of requests held in memory at once, in MiB", low=1, high=1 << 20)
    max_jobs: int = _setting(100_000, "unfinished durable jobs per model", low=1, high=1e9)
    max_jobs_mb: int = _setting(1024, "bytes of unfinished durable jobs per model, in MiB", low=1, high=1 << 20)
    max_job_age_seconds: float = _setting(0.0, "refuse jobs while the oldest waits longer; 0 for no bound", low=0)
    job_replicas: int = _setting(0, "replicas of Redis that must have a job before it is accepted", low=0, high=16)
    max_message_mb: int = _setting(16, "largest request, in MiB", low=1, high=2047)
    max_deadline_seconds: float = _setting(60.0, "no request waits longer, whatever its deadline", low=0.01, high=86400)
    load_timeout_seconds: float = _setting(120.0, "a model that takes longer to load is refused", low=1, high=86400)
    session_memory_mb: int = _setting(0, "address space a session child may add while serving; 0 for no limit", low=0)
    engine_cache: Path | None = _setting(None, "directory for engines that TensorRT has built; without it none is kept")
    gpu_memory_mb: int = _setting(0, "GPU memory arena of each session; 0 for no limit", low=0)
    cache_mb: int = _setting(64, "answers kept per model whose config has response_cache, in MiB", low=1, high=1 << 20)
    cache: str = _setting("local", "where those answers are: local, or also in redis://HOST:PORT/DB for every process")
    cache_ttl_seconds: float = _setting(3600.0, "how long Redis keeps an answer", low=1, high=31536000)
    cache_patience_seconds: float = _setting(
        0.005, "how long a request waits for Redis's answer before it is computed", low=0.0005, high=1
    )
    cache_password_file: Path | None = _setting(None, "file holding the password of the cache's Redis")
    shared_memory_prefix: str = _setting(
        "", "take tensors in system shared memory below this key prefix, e.g. /client_"
    )
    frontends: int = _setting(
        1, "processes that take calls, on one port; from 2 on, this one schedules and they parse", low=1, high=256
    )
    transport: TransportName = _setting("auto", "auto and lean: our own HTTP/2; aio: grpc.aio, slower, on gRPC's core")
    reflection: bool = _setting(True, "offer gRPC server reflection")
    tls_cert: Path | None = _setting(None, "PEM certificate chain; switches TLS on together with --tls-key")
    tls_key: Path | None = _setting(None, "PEM private key")
    tls_client_ca: Path | None = _setting(None, "PEM authority that client certificates must come from (mTLS)")
    api_keys: Path | None = _setting(None, "file of API keys; without it anybody who reaches the port may call")
    drain_seconds: float = _setting(30.0, "how long SIGTERM lets requests in flight finish", low=0, high=3600)
    drain_delay_seconds: float = _setting(
        0.0, "go on accepting this long after SIGTERM (Kubernetes: 5)", low=0, high=600
    )
    log_format: LogFormat = _setting("auto", "auto: text on a terminal, else JSON lines")
    log_level: LogLevel = _setting("info", "least severe event that is logged")
    log_requests_per_second: int = _setting(100, "canonical request lines per second before sampling", low=0, high=1e6)
    otlp_endpoint: str = _setting(
        "", "trace to this OpenTelemetry collector, http://HOST:4318; needs the extra otel, OTEL_* say how"
    )

    def __post_init__(self) -> None:
        for spec in fields(self):
            _check_range(spec, getattr(self, spec.name))
        self._check_tls()
        if self.role != "all" and self.queue == "memory":
            raise InvalidSettings(f"--role {self.role}: expected --queue redis://HOST:PORT/DB, got --queue memory")
        if self.otlp_endpoint:
            _check_endpoint(self.otlp_endpoint)
        if self.job_replicas and self.queue == "memory":
            raise InvalidSettings("--job-replicas: expected --queue redis://HOST:PORT/DB, got --queue memory")
        if self.frontends > 1:
            self._check_frontends()
        if self.load_model and self.model_control != "explicit":
            raise InvalidSettings(f"--load-model: expected --model-control explicit, got {self.model_control}")

    def _check_tls(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidSettings("--tls-cert and --tls-key: expected both or neither, got one of them")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise InvalidSettings("--tls-client-ca: expected --tls-cert and --tls-key with it, got neither")

    def _check_frontends(self) -> None:
        """Refuse several frontends where one process must know something that the others cannot."""
        expected = f"--frontends: got {self.frontends}, expected 1 with"
        if self.role == "worker":
            raise InvalidSettings(f"{expected} --role worker, which takes no calls")
        if self.shared_memory_prefix:
            raise InvalidSettings(f"{expected} --shared-memory-prefix, as a region is registered with one process")


def flag(spec: "Field[Any]") -> str:
    """Return a field's flag, e.g. --grpc-port."""
    return "--" + spec.name.replace("_", "-")


def variable(spec: "Field[Any]") -> str:
    """Return a field's environment variable, e.g. SLUICE_GRPC_PORT."""
    return "SLUICE_" + spec.name.upper()


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give `parser` one flag per setting; values stay text until `parse` checks them with the environment's."""
    for spec in fields(Settings):
        shown = "" if spec.default in (None, ()) else f" (default: {_shown(spec.default)})"
        choices = f" [{'|'.join(get_args(spec.type))}]" if get_origin(spec.type) is Literal else ""
        parser.add_argument(
            flag(spec), dest=spec.name, metavar=spec.name.split("_")[-1].upper(), default=None,
            nargs="?" if spec.type is bool else None, const="true" if spec.type is bool else None,
            help=f"{spec.metadata['help']}{choices}{shown}".replace("%", "%%"),
        )  # fmt: skip


def parse(flags: Mapping[str, str | None], environment: Mapping[str, str]) -> Settings:
    """Build the settings from parsed flags and the environment.

    Raises:
        InvalidSettings: naming the flag or variable, what was expected and what came.
    """
    values: dict[str, Any] = {}
    for spec in fields(Settings):
        given, name = flags.get(spec.name), flag(spec)
        if given is None:
            given, name = environment.get(variable(spec)), variable(spec)
        if given is not None:
            values[spec.name] = _convert(spec, name, given)
    return Settings(**values)


def as_flags(settings: Settings) -> dict[str, str]:
    """Return settings as `parse` takes them: for another process of this server."""
    values = {spec.name: getattr(settings, spec.name) for spec in fields(Settings)}
    return {
        name: ",".join(value) if isinstance(value, tuple) else str(value)
        for name, value in values.items()
        if value is not None
    }


def table() -> Sequence[tuple[str, str, str, str]]:
    """Return (flag, variable, default, meaning) per setting, for the README."""
    return [(flag(s), variable(s), _shown(s.default), s.metadata["help"]) for s in fields(Settings)]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value in (None, ()) else str(value)


def _refuse(name: str, expected: str, got: str) -> NoReturn:
    raise InvalidSettings(f"{name}: expected {expected}, got {got[:64]!r}")


def _convert(spec: "Field[Any]", name: str, text: str) -> object:
    kind = spec.type
    if get_origin(kind) is Literal:
        return text if text in get_args(kind) else _refuse(name, "one of " + ", ".join(get_args(kind)), text)
    if kind is bool:
        truth = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        return truth[text.lower()] if text.lower() in truth else _refuse(name, "true or false", text)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            _refuse(name, "a whole number" if kind is int else "a number", text)
    if kind == tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text if kind is str else Path(text)


def _check_endpoint(text: str) -> None:
    if "@" in text:
        raise InvalidSettings("--otlp-endpoint: expected no credentials in it, set OTEL_EXPORTER_OTLP_HEADERS instead")
    try:
        url = urlsplit(text)
        usable = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0
    except ValueError:
        usable = False
    if not usable:
        _refuse("--otlp-endpoint", "http://HOST:PORT or https://HOST:PORT", text)


def _check_range(spec: "Field[Any]", value: object) -> None:
    low, high = spec.metadata["low"], spec.metadata["high"]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if low is not None and not value >= low:
            raise InvalidSettings(f"{flag(spec)}: expected at least {low:g}, got {value:g}")
        if high is not None and not value <= high:
            raise InvalidSettings(f"{flag(spec)}: expected at most {high:g}, got {value:g}")
