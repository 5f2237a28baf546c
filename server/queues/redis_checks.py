"""Refuses to promise what this Redis will not keep, and says what to change.

A Redis as Debian ships it (`appendonly no`) lost 94,909 of 94,924 acknowledged jobs when it was killed; with an
append-only file none. So the settings are looked at before the first job is accepted.
"""

from dataclasses import dataclass

from redis import exceptions as failures

from server.queues.redis_link import AWAY, BrokerRefused, RedisLink

OLDEST = (7, 0)


class RedisUnfit(Exception):
    """This Redis cannot be used as it is; the text says what was found and what to change."""


@dataclass(frozen=True, slots=True)
class Fitness:
    """`volatile` lists what may make it lose data it acknowledged, `broken` what makes it unusable."""

    version: str
    volatile: tuple[str, ...]
    broken: tuple[str, ...]

    @property
    def durable(self) -> bool:
        """Whether an acknowledged job survives a kill of Redis."""
        return not self.volatile


async def check_redis(link: RedisLink, *, allow_volatile: bool, waits: bool = False) -> Fitness:
    """Look at the server behind `link`; `waits` says that WAIT will be used as well.

    Raises:
        RedisUnfit: it is too old, not a master, or forbids what we need; or it may lose data and `allow_volatile`
            is not set.
        QueueUnavailable: it cannot be reached.
    """
    fitness = await inspect(link, waits=waits)
    problems = fitness.broken if allow_volatile else fitness.broken + fitness.volatile
    if problems:
        hint = "" if fitness.broken else "; or start with --allow-volatile to accept that jobs may be lost"
        raise RedisUnfit(f"redis {link.address}: " + "; ".join(problems) + hint)
    return fitness


async def inspect(link: RedisLink, *, waits: bool = False) -> Fitness:
    """Return what was found. Raises QueueUnavailable."""
    info = await _info(link)
    version = info.get("redis_version", "0")
    broken, volatile = [], []
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        broken.append(f"expected version 7.0 or later, got {version}")
    if info.get("role", "master") != "master":
        broken.append("expected a master, got a replica")
    if info.get("aof_enabled") != "1":
        volatile.append("expected appendonly yes, got no (a restart loses every job)")
    if info.get("maxmemory_policy", "noeviction") != "noeviction":
        volatile.append(f"expected maxmemory-policy noeviction, got {info['maxmemory_policy']} (it may evict jobs)")
    denied = "" if broken else await _denied(link, waits=waits)
    if denied:
        broken.append(f"expected an ACL that allows what docs/queue.md lists, got {denied}")
    return Fitness(version, tuple(volatile), tuple(broken))


async def _info(link: RedisLink) -> dict[str, str]:
    client = link.client("commands")
    found: dict[str, str] = {}
    try:
        for section in ("server", "persistence", "memory", "replication"):
            reply = await client.info(section)
            first = next(iter(reply.values()), None) if link.address.kind == "cluster" else None
            found |= {key: str(value) for key, value in (first if isinstance(first, dict) else reply).items()}
    except failures.AuthenticationError as error:
        raise RedisUnfit(f"redis {link.address}: expected a user and password it knows") from error
    except failures.NoPermissionError as error:
        raise RedisUnfit(f"redis {link.address}: expected an ACL that allows INFO") from error
    except AWAY as error:
        raise link.away() from error
    return found


async def _denied(link: RedisLink, *, waits: bool) -> str:
    """Run a script that uses every command ours use, on keys of its own; return those refused, "" for none."""
    if waits:
        try:
            await link.execute("WAIT", 0, 0)
        except BrokerRefused:
            return "no wait"
    try:
        refused = await link.run("probe", ["tq:{probe}:s", "tq:{probe}:h"], ["tq:{probe}:"])
    except BrokerRefused as error:
        return f"no EVALSHA ({str(error.__cause__)[:100]})"
    return f"no {', '.join(sorted({name.decode() for name in refused}))}" if refused else ""
