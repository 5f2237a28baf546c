import pytest

from server.traceparent import TraceContext, given, parse

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_traceparent_is_read_and_written_back():
    text = f"00-{TRACE}-{SPAN}-01"

    assert parse(text) == TraceContext(TRACE, SPAN, True)
    assert str(parse(text)) == text


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("ff", True)])
def test_only_the_last_bit_of_the_flags_says_sampled(flags, sampled):
    assert parse(f"00-{TRACE}-{SPAN}-{flags}").sampled is sampled


def test_a_later_version_may_say_more_behind_the_flags():
    assert parse(f"cc-{TRACE}-{SPAN}-01-what-the-future-brings") == TraceContext(TRACE, SPAN, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\n",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0\uff11",  # a digit, but not one of ASCII's
        '"}, "event": "forged"',
    ],
)
def test_what_has_another_form_is_no_trace(text):
    assert parse(text) is None
    assert given([("traceparent", text)]) == ""


def test_it_is_found_among_the_other_headers_and_the_first_one_counts():
    first, second = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"

    assert given([("user-agent", "x"), ("traceparent", first), ("traceparent", second)]) == first
    assert given([("traceparent-bin", b"00"), ("traceparent", b"bytes are no text")]) == ""
    assert given([]) == ""
