"""What was acknowledged against what came out, in the manner of Jepsen: one verdict at the end."""

from collections import Counter
from dataclasses import dataclass, field

from server.jobs import Job, JobState
from server.queues.redis_jobs import RedisJobs
from tests.chaos.harness.fleet import Fleet
from tests.redis_rig import MODEL, POISON, number_of, open_link


@dataclass
class Verdict:
    """Counts of what must not be, and of what may."""

    acknowledged: int = 0
    lost: int = 0
    wrong: int = 0
    innocent_dead: int = 0
    poison_alive: int = 0
    stored_twice: int = 0
    entries_left: int = 0
    bytes_left: int = 0
    payloads_left: int = 0
    tracebacks: int = 0
    run_again: int = 0
    notes: dict[str, object] = field(default_factory=dict)

    @property
    def good(self) -> bool:
        bad = (self.lost, self.wrong, self.innocent_dead, self.poison_alive, self.stored_twice)
        return not any((*bad, self.entries_left, self.bytes_left, self.payloads_left, self.tracebacks))

    def line(self) -> str:
        names = ["acknowledged", "lost", "wrong", "innocent_dead", "poison_alive", "stored_twice", "entries_left"]
        names += ["bytes_left", "payloads_left", "tracebacks", "run_again"]
        said = {name: getattr(self, name) for name in names} | self.notes
        return ("PASS " if self.good else "FAIL ") + " ".join(f"{name}={value}" for name, value in said.items())


async def judge(jobs: RedisJobs, acknowledged: dict[str, int], fleet: Fleet, url: str) -> Verdict:
    """Compare every acknowledged job (id to number) with what the store says now."""
    verdict = Verdict(acknowledged=len(acknowledged))
    for job_id, number in acknowledged.items():
        _check(verdict, number, await jobs.get(job_id))
    poison = sum(number == POISON for number in acknowledged.values())
    async with open_link(url) as link:
        prefix = f"tq:{{{MODEL}}}:"
        lanes, counts, dead, held = await link.run("look", [f"{prefix}lanes"], [prefix])
        totals = Counter({counts[i].decode(): int(counts[i + 1]) for i in range(0, len(counts), 2)})
        verdict.entries_left = sum(lane[1] + lane[2] for lane in lanes)
        verdict.bytes_left = held
        payloads = [key async for key in link.client("commands").scan_iter(f"{prefix}p:*", count=5000)]
        verdict.payloads_left = len(payloads) - dead
    # Every stored outcome is counted in the step that stores it, so more of them than jobs means one was stored twice.
    verdict.stored_twice = totals["done"] + totals["dead"] - (len(acknowledged) - verdict.lost)
    runs = fleet.runs()
    verdict.run_again = sum(count - 1 for ident, count in runs.items() if not ident.startswith(str(POISON)))
    verdict.tracebacks = fleet.complaints().count("Traceback")
    verdict.notes = {"kills": fleet.kills, "deaths": fleet.deaths, "poison": poison, "recovered": totals["recovered"],
                     "stale": totals["stale"]}  # fmt: skip
    return verdict


def _check(verdict: Verdict, number: int, job: Job) -> None:
    if number == POISON:
        verdict.poison_alive += not job.dead
    elif job.dead:
        verdict.innocent_dead += 1
    elif job.state is not JobState.DONE:
        verdict.lost += 1
    elif job.result is None or number_of(job.result) != 2 * number:
        verdict.wrong += 1
