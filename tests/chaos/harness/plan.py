"""What both ends of a chaos run agree on.

Five attempts, not three: a worker dies every half second, so a job that is being recovered alone dies with it about
once in a thousand times, and in 20,000 jobs three deaths in a row of an innocent one would be seen now and then.
"""

from server.jobs import JobLimits

HEARTBEAT = 0.25
LEASE = 5.0
LIMITS = JobLimits(max_depth=200_000, max_bytes=1 << 30, max_age=0.0, max_attempts=5)
