"""Settings translated into what each part wants to be given; no part reads the settings itself."""

import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from server import __version__
from server.admission import Limits as QueueLimits
from server.alarm import Alarm
from server.bundle import Bundle
from server.cache import CachedScheduler
from server.fleet.ends import RedisOptions
from server.jobs import JobLimits
from server.queues.redis_address import InvalidAddress, RedisAddress, parse_address, read_password
from server.queues.redis_cache import RedisCache
from server.queues.redis_queue import OnlineBounds
from server.scheduler import Scheduler
from server.sessions.base import LoadedModel, SessionOptions
from server.settings import InvalidSettings, Settings
from server.spans import Tracing
from server.transports.base import TlsFiles, TransportOptions
from server.wire.auth import Authenticator, InvalidKeys, parse_keys
from server.wire.limits import Limits as WireLimits

MIB = 1 << 20
LEASE_MARGIN = 10.0
"""Seconds beyond the longest run after which a silent worker's claims go to another."""


Queued = Scheduler | CachedScheduler
"""What stands before the instances of one version."""


def make_schedulers(
    settings: Settings,
    alarm: Alarm,
    shared: RedisCache | None,
    together: AbstractContextManager[None] | None,
    bundle: Bundle,
) -> Callable[[LoadedModel], Queued]:
    """Return what gives each loaded version its queue, and a response cache where its config asks for one."""
    limits = QueueLimits(
        max_requests=settings.max_queue_size,
        max_rows=settings.max_queue_size * 16,
        max_bytes=settings.max_inflight_mb * MIB,
        max_deadline=settings.max_deadline_seconds,
        run_timeout=settings.max_deadline_seconds,
    )

    def make(loaded: LoadedModel) -> Queued:
        scheduler = Scheduler(
            loaded.spec,
            loaded.instances,
            loaded.costs,
            alarm=alarm,
            limits=limits,
            together=together,
            bundle=bundle,
        )
        if not loaded.spec.config.response_cache:
            return scheduler
        shelf = shared.shelf(loaded.spec, loaded.digest) if shared is not None else None
        return CachedScheduler(scheduler, settings.cache_mb * MIB, shared=shelf)

    return make


def shared_cache(settings: Settings) -> RedisCache | None:
    """Return the answers in Redis, None where they stay here. Raises InvalidSettings."""
    if settings.cache == "local":
        return None
    address = redis_address("--cache", settings.cache, settings.cache_password_file)
    return RedisCache(address, ttl=settings.cache_ttl_seconds, patience=settings.cache_patience_seconds)


def session_options(settings: Settings) -> SessionOptions:
    """Return how sessions are made."""
    return SessionOptions(
        device=settings.device,
        isolation=settings.isolation,
        intra_op_threads=settings.intra_op_threads,
        load_timeout=settings.load_timeout_seconds,
        memory_limit_bytes=settings.session_memory_mb * MIB,
        max_message_bytes=settings.max_message_mb * MIB,
        gpu_memory_limit_bytes=settings.gpu_memory_mb * MIB,
        max_batch_size=settings.max_batch_size,
        engine_cache=str(settings.engine_cache.absolute()) if settings.engine_cache is not None else "",
    )


def wire_limits(settings: Settings) -> WireLimits:
    """Return the bounds of the wire."""
    return WireLimits(
        max_message_bytes=settings.max_message_mb * MIB,
        max_inflight_requests=settings.max_queue_size * 4,
        max_inflight_bytes=settings.max_inflight_mb * MIB,
        max_deadline=settings.max_deadline_seconds,
    )


def transport_options(settings: Settings) -> TransportOptions:
    """Return the transport's limits and TLS files. Raises InvalidSettings when one cannot be read."""
    tls = None
    if settings.tls_cert is not None and settings.tls_key is not None:
        authority = settings.tls_client_ca
        tls = TlsFiles(
            read_file("--tls-cert", settings.tls_cert),
            read_file("--tls-key", settings.tls_key),
            read_file("--tls-client-ca", authority) if authority is not None else None,
        )
    return TransportOptions(
        max_receive_bytes=settings.max_message_mb * MIB, max_connection_age_grace=settings.max_deadline_seconds, tls=tls
    )


def redis_options(settings: Settings) -> RedisOptions:
    """Return how Redis is used. Raises InvalidSettings when the address or the password file cannot be."""
    address = redis_address("--queue", settings.queue, settings.redis_password_file)
    if settings.job_replicas and address.kind == "cluster":
        raise InvalidSettings("--job-replicas: expected a primary with replicas of its own, got a cluster")
    most_bytes = settings.max_inflight_mb * MIB
    return RedisOptions(
        address=address,
        allow_volatile=settings.allow_volatile,
        online=OnlineBounds(settings.max_queue_size * 4, settings.max_queue_size, most_bytes),
        jobs=JobLimits(
            max_depth=settings.max_jobs, max_bytes=settings.max_jobs_mb * MIB, max_age=settings.max_job_age_seconds
        ),
        lease=settings.max_deadline_seconds + LEASE_MARGIN,
        job_replicas=settings.job_replicas,
    )


def tracing(settings: Settings) -> Tracing | None:
    """Return where traces go, None for nowhere.

    Raises:
        InvalidSettings: OpenTelemetry is not installed, or an OTEL_* variable cannot be.
    """
    if not settings.otlp_endpoint:
        return None
    about = {"service.name": "sluice", "service.version": __version__, "service.instance.id": instance_name()}
    try:
        from server.tracing import open_tracing  # noqa: PLC0415 - the extra that most servers do without

        return open_tracing(settings.otlp_endpoint, {**about, "sluice.role": settings.role})
    except ImportError as error:
        raise InvalidSettings(
            "--otlp-endpoint: expected OpenTelemetry, which comes with the extra sluice[otel]; it is not installed"
        ) from error
    except ValueError as error:
        raise InvalidSettings(f"--otlp-endpoint: an OTEL_* variable cannot be used: {error}") from error


def instance_name() -> str:
    """Return what tells this process from every other one."""
    return f"{socket.gethostname()}-{os.getpid()}"


def redis_address(flag: str, url: str, password_file: Path | None) -> RedisAddress:
    """Return where a Redis is, its password taken from a file. Raises InvalidSettings."""
    try:
        address = parse_address(url)
        return address if password_file is None else address.with_password(read_password(password_file))
    except InvalidAddress as error:
        raise InvalidSettings(f"{flag}: {error}") from error


def credentials(settings: Settings) -> Authenticator:
    """Return who may call. Raises InvalidSettings when the key file cannot be used."""
    if settings.api_keys is None:
        return Authenticator(None)
    try:
        return Authenticator(parse_keys(read_file("--api-keys", settings.api_keys).decode().splitlines()))
    except (InvalidKeys, UnicodeDecodeError) as error:
        raise InvalidSettings(f"--api-keys {settings.api_keys}: {error}") from error


def read_file(flag: str, path: Path) -> bytes:
    """Return a file's content. Raises InvalidSettings."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidSettings(f"{flag}: cannot read {path}: {error.strerror}") from error
