"""The protocol's named parameters: which ones mean something, of which type, in which range.

Unknown names are the caller's business and ignored, as Triton does; those that begin with `triton_` are reserved, so an
unknown one is a mistake worth telling. The sequence parameters are ignored too: no model here keeps state.
"""

from collections.abc import Mapping

from server.errors import InvalidRequest
from server.pb.open_inference_pb2 import InferParameter
from server.wire.text import quote

EMPTY_FINAL_RESPONSE = "triton_enable_empty_final_response"
"""Triton's C++ client always sends it."""
FINAL_RESPONSE = "triton_final_response"
_RESERVED = "triton_"
_PRIORITY_MAX = 1 << 31
_TIMEOUT_MAX_US = 1 << 53
"""285 years; more than any clock here can be asked to wait."""

Parameters = Mapping[str, InferParameter]


def priority(parameters: Parameters, levels: int) -> int:
    """Return the priority level asked for, 0 for the model's default.

    A level the model does not have is the default too, as in Triton. Raises InvalidRequest for another type or a
    negative number.
    """
    if "priority" not in parameters:
        return 0
    level = whole_number(parameters["priority"], "parameter 'priority'", 0, _PRIORITY_MAX)
    return level if level <= levels else 0


def timeout(parameters: Parameters) -> float | None:
    """Return the `timeout` parameter (microseconds on the wire) in seconds, None when absent or 0.

    Raises:
        InvalidRequest: it is negative or no whole number.
    """
    if "timeout" not in parameters:
        return None
    microseconds = whole_number(parameters["timeout"], "parameter 'timeout' (microseconds)", 0, _TIMEOUT_MAX_US)
    return microseconds / 1e6 if microseconds else None


def refuse_reserved(parameters: Parameters) -> None:
    """Raise InvalidRequest for a parameter in Triton's name space that this server does not know."""
    for name in parameters:
        if name.startswith(_RESERVED) and name != EMPTY_FINAL_RESPONSE:
            raise InvalidRequest(f"parameter {quote(name)}: expected no {_RESERVED}* but {EMPTY_FINAL_RESPONSE}")
        if name == EMPTY_FINAL_RESPONSE and parameters[name].WhichOneof("parameter_choice") != "bool_param":
            raise InvalidRequest(f"parameter '{EMPTY_FINAL_RESPONSE}': expected bool_param")


def whole_number(parameter: InferParameter, where: str, low: int, high: int) -> int:
    """Return an integer parameter within low..high.

    Raises:
        InvalidRequest: another type, or out of range.
    """
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in ("int64_param", "uint64_param"):
        raise InvalidRequest(f"{where}: expected int64_param, got {kind or 'nothing'}")
    value: int = getattr(parameter, kind)
    if not low <= value <= high:
        raise InvalidRequest(f"{where}: expected {low} to {high}, got {value}")
    return value
