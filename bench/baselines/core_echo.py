"""The physical limit of a server on gRPC's core: an echo over grpcio's own completion queue, and nothing else.

    python -m bench.baselines.core_echo

It prints its port, and serves until it is terminated. The binding is private to grpcio; that is why only a benchmark
stands on it (docs/adr/0008-own-http2.md).
"""

import os
from collections.abc import Callable
from typing import TypeAlias

os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener,-event_engine_client")  # its cheapest way to read

from grpc._cython import cygrpc  # type: ignore[attr-defined]

_DEPTH = 256
_Event: TypeAlias = "cygrpc.BaseEvent"


def serve(ready: Callable[[int], None]) -> None:
    """Serve on this thread; `ready` is told the port."""
    queue = cygrpc.CompletionQueue()
    server = cygrpc.Server((("grpc.max_concurrent_streams", 1024),), False)  # noqa: FBT003  not named in all versions
    server.register_completion_queue(queue)
    port = server.add_http2_port(b"127.0.0.1:0", None)
    server.start()

    def opened(event: _Event) -> None:
        server.request_call(queue, queue, opened)
        call = event.call

        def received(event: _Event) -> None:
            # fresh operations for every call: the core frees what is inside them
            answer = (
                cygrpc.SendInitialMetadataOperation(None, 0),
                cygrpc.SendMessageOperation(event.batch_operations[0].message(), 0),
                cygrpc.SendStatusFromServerOperation(None, 0, b"", 0),
                cygrpc.ReceiveCloseOnServerOperation(0),
            )
            call.start_server_batch(answer, _nothing)

        call.start_server_batch((cygrpc.ReceiveMessageOperation(0),), received)

    for _ in range(_DEPTH):
        server.request_call(queue, queue, opened)
    ready(port)
    while True:
        event = queue.poll(None)
        event.tag(event)


def _nothing(_: _Event) -> None:
    return


if __name__ == "__main__":
    serve(lambda port: print(port, flush=True))
