"""How much one request, one stream and all requests together may ask for: one frozen value.

docs/limits.md has the reasons. Everything a caller can make large has a bound here, and nothing in this package
compares with a number of its own.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the wire. Durations are seconds, sizes bytes; those without a default are the operator's to choose."""

    max_message_bytes: int
    max_inflight_requests: int
    """Requests of every model accepted and not yet answered, in this process."""
    max_inflight_bytes: int
    """Their encoded size in all."""
    max_deadline: float
    """No request waits longer than this, whatever deadline its caller set."""

    max_inputs: int = 64
    max_outputs: int = 64
    max_parameters: int = 64
    """Per message and per tensor."""
    max_rank: int = 8
    max_rows: int = 4096
    """Batch dimension of one request; larger ones would let one caller fill every batch."""
    max_elements: int = 1 << 20
    """Values in the typed contents of one tensor, which grow when parsed; raw contents are bounded by the message."""
    max_bytes_elements: int = 1 << 15
    """Elements of one BYTES tensor: counting and checking them costs about 0.1 us each."""
    max_name: int = 256
    """Characters of a model, tensor or parameter name and of a request id."""
    max_stream_inflight: int = 64
    """Requests of one ModelStreamInfer stream that may wait for their answers; then reading it pauses."""
    stream_idle: float = 600.0
    """A stream on which no message comes for this long is ended."""
    max_images: int = 256
    max_image_bytes: int = 4 << 20
    max_image_pixels: int = 16_000_000
    """Width times height in an image's header; decoding needs about 5 bytes a pixel."""
