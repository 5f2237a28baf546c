"""What gRPC's core reads from the environment, once, when it is first imported; so this module must not import it.

A Python handler costs least when the thread that runs it reads the sockets itself. By default the core reads them on
threads of its own and hands every event over, which took 2 to 7 microseconds of CPU more per call, and 4 to 15 where
answers come from another thread (docs/adr/0003-lean-transport.md). Both ways pass the transports' contract with every
grpcio we allow.
"""

from collections.abc import MutableMapping

_DEFAULTS = {
    "GRPC_EXPERIMENTS": "-event_engine_listener,-event_engine_client",
    # The core logs to stderr whatever nonsense a caller sends, as often as it is sent.
    "GRPC_VERBOSITY": "NONE",
}


def prepare(environ: MutableMapping[str, str]) -> None:
    """Set what the operator has not set; call it before anything imports grpc."""
    for name, value in _DEFAULTS.items():
        environ.setdefault(name, value)
