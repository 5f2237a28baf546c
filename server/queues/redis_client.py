"""Connections to Redis, configured once: timeouts, retries, TLS, sentinels, clusters.

Three kinds, because they want opposite things. Commands must notice a dead server soon and are repeated by `RedisLink`,
which knows that every script bears it. Blocking reads wait on purpose, so their socket timeout must be longer than the
block or redis-py would tear a healthy read down (redis-py #4098). Subscriptions sit idle for hours.
redis-py's own retries are off everywhere: hidden ones would hide outages from the circuit breaker.
"""

import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from server.queues.redis_address import RedisAddress

if TYPE_CHECKING:
    AnyRedis = Redis | RedisCluster
else:
    AnyRedis = Redis

Purpose = Literal["commands", "blocking", "subscription"]

COMMAND_TIMEOUT = 2.0
CONNECT_TIMEOUT = 1.0
BLOCK = 1.0
"""Seconds a blocking read waits at most: how long a lost wake-up can go unnoticed."""

_TIMEOUTS: dict[Purpose, float | None] = {"commands": COMMAND_TIMEOUT, "blocking": 2 * BLOCK + 2, "subscription": None}


def connect(address: RedisAddress, purpose: Purpose, name: str) -> AnyRedis:
    """Return a client; nothing is connected before its first command."""
    options: dict[str, Any] = {
        "username": address.username,
        "password": address.password,
        "socket_timeout": _TIMEOUTS[purpose],
        "socket_connect_timeout": CONNECT_TIMEOUT,
        "socket_keepalive": True,
        "client_name": f"{name}:{purpose}",
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        **_tls(address),
    }
    if address.kind == "cluster" and purpose == "subscription":
        # PUBLISH reaches every node of a cluster, so any one will do; while it is down, waiters look for themselves.
        host, port = secrets.choice(address.hosts)
        return Redis(host=host, port=port, **options)
    if address.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        return RedisCluster(startup_nodes=nodes, **options)
    options |= {"db": address.db, "redis_connect_func": _introduce}
    if address.kind == "unix":
        return Redis(unix_socket_path=address.path, **options)
    if address.kind == "sentinel":
        return _master(address, options)
    host, port = address.hosts[0]
    return Redis(host=host, port=port, **options)


async def _introduce(connection: AbstractConnection) -> None:
    """Ask not to be thrown out when clients' buffers outgrow `maxmemory-clients`; an ACL may say no."""
    await connection.on_connect()
    await connection.send_command("CLIENT", "NO-EVICT", "on", check_health=False)
    with suppress(ResponseError):
        await connection.read_response()


async def disconnect(client: AnyRedis) -> None:
    """Close a client, and its lines to the sentinels, which redis-py leaves open."""
    await client.aclose()
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, SentinelConnectionPool):
        for sentinel in pool.sentinel_manager.sentinels:
            await sentinel.aclose()


def _tls(address: RedisAddress) -> dict[str, Any]:
    if not address.tls:
        return {}
    return {
        "ssl": True,
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": address.ca,
        "ssl_certfile": address.cert,
        "ssl_keyfile": address.key,
    }


def _master(address: RedisAddress, options: dict[str, Any]) -> Redis:
    """Sentinels have no login of ours: the password is the master's."""
    watch = {"socket_timeout": CONNECT_TIMEOUT, "socket_connect_timeout": CONNECT_TIMEOUT, **_tls(address)}
    sentinel = Sentinel(list(address.hosts), sentinel_kwargs=watch, **options)  # type: ignore[no-untyped-call]
    master: Redis = sentinel.master_for(address.path)
    return master
