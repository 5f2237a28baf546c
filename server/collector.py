"""Python's garbage collector, told that this process makes no garbage it would have to find.

A request's objects are freed by their reference counts: tests/integration/test_line.py counts what the collector finds
after thousands of calls. As Python comes, it looks all the same, every 700 allocations, and now and then at every
object there is: a fifth of the CPU of a small request, and pauses of tens of milliseconds with models loaded. What
stands when the server is ready stays and is not looked at again; the rest is looked at when enough has been kept.
"""

import gc

KEPT = 50_000
"""Objects allocated and not freed before the collector looks at them: about those of 1,500 requests in flight."""


def settle() -> None:
    """Call once, when everything is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(KEPT, 20, 50)
