import pytest

from server.errors import InvalidRequest
from server.pb import open_inference_pb2 as pb
from server.wire.log_settings import level_asked_for, shown

LEVELS = ("debug", "info", "warning", "error")


def request(**settings):
    message = pb.LogSettingsRequest()
    for name, value in settings.items():
        kind = "bool_param" if isinstance(value, bool) else "uint32_param" if isinstance(value, int) else "string_param"
        setattr(message.settings[name], kind, value)
    return message


@pytest.mark.parametrize("level", LEVELS)
def test_what_is_shown_asks_for_the_level_it_shows(level):
    settings = shown(level).settings
    same = request(**{name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in settings.items()})

    assert level_asked_for(same, "error") == level


@pytest.mark.parametrize(
    ("before", "change", "after"),
    [
        ("info", {"log_verbose_level": 2}, "debug"),
        ("debug", {"log_verbose_level": 0}, "info"),
        ("info", {"log_info": False}, "warning"),
        ("info", {"log_info": False, "log_warning": False}, "error"),
        ("error", {"log_warning": True}, "warning"),
        ("error", {"log_error": False}, "error"),
    ],
)
def test_the_finest_switch_that_is_on_decides(before, change, after):
    assert level_asked_for(request(**change), before) == after


@pytest.mark.parametrize("bad", [{"log_file": "x"}, {"log_info": 3}, {"log_verbose_level": True}, {"": True}])
def test_what_cannot_be_changed_here_is_refused(bad):
    with pytest.raises(InvalidRequest, match="log setting"):
        level_asked_for(request(**bad), "info")
