"""LogSettings: our one log level under the names that Triton's clients know.

    log_verbose_level > 0   debug
    log_info                info
    log_warning             warning
    log_error               error, which cannot be switched off

The finest one that is on decides. What cannot be changed over the wire (the file, the format) is refused.
"""

from server.errors import InvalidRequest
from server.pb import open_inference_pb2 as pb
from server.wire.text import quote

_SWITCHES = {"log_info": "info", "log_warning": "warning", "log_error": "error"}
_VERBOSE = "log_verbose_level"
_ORDER = ("debug", "info", "warning", "error")


def shown(level: str) -> pb.LogSettingsResponse:
    """Return what LogSettings answers while `level` is logged."""
    response = pb.LogSettingsResponse()
    response.settings[_VERBOSE].uint32_param = int(level == "debug")
    for name, switched in _SWITCHES.items():
        response.settings[name].bool_param = _ORDER.index(level) <= _ORDER.index(switched)
    return response


def level_asked_for(request: pb.LogSettingsRequest, level: str) -> str:
    """Return the level after the request's changes to `level`.

    Raises:
        InvalidRequest: a name we do not know, or a value of the wrong kind.
    """
    switches = shown(level).settings
    for name, value in request.settings.items():
        kind = "uint32_param" if name == _VERBOSE else "bool_param"
        if name != _VERBOSE and name not in _SWITCHES:
            raise InvalidRequest(
                f"log setting {quote(name)}: expected {_VERBOSE}, {', '.join(_SWITCHES)}; others cannot be changed here"
            )
        if value.WhichOneof("parameter_choice") != kind:
            raise InvalidRequest(f"log setting {quote(name)}: expected a {kind}")
        setattr(switches[name], kind, getattr(value, kind))
    if switches[_VERBOSE].uint32_param:
        return "debug"
    return next((level for name, level in _SWITCHES.items() if switches[name].bool_param), "error")
