import pytest

from server.queues.redis_address import InvalidAddress, RedisAddress, parse_address, read_password


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", RedisAddress("single", (("h", 6379),))),
        ("redis://h:7/3", RedisAddress("single", (("h", 7),), 3)),
        ("redis://u:p%40x@[::1]:7", RedisAddress("single", (("::1", 7),), username="u", password="p@x")),  # noqa: S106 - made up
        ("rediss://h?ca=/c.pem", RedisAddress("single", (("h", 6379),), tls=True, ca="/c.pem")),
        ("unix:///run/redis.sock?db=2", RedisAddress("unix", (), 2, "/run/redis.sock")),
        ("redis+sentinel://a,b:1/main/4", RedisAddress("sentinel", (("a", 26379), ("b", 1)), 4, "main")),
        ("redis+cluster://a:1,b:2", RedisAddress("cluster", (("a", 1), ("b", 2)))),
        ("redis+cluster+tls://a", RedisAddress("cluster", (("a", 6379),), tls=True)),
    ],
)  # fmt: skip
def test_every_form_is_understood(url, expected):
    assert parse_address(url) == expected


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("localhost:6379", "before ://"),
        ("http://h", "before ://"),
        ("redis://", "one host, got 0"),
        ("redis://a,b", "one host, got 2"),
        ("redis://h:99999", "port up to 65535"),
        ("redis://h/x", "a database number, got 'x'"),
        ("redis://h?timeout=1", "only ca, cert, key and db"),
        ("redis+sentinel://h", "expected /SERVICE"),
        ("redis+cluster://h/1", "a cluster has only 0"),
    ],
)
def test_what_is_wrong_is_named(url, what):
    with pytest.raises(InvalidAddress, match=what):
        parse_address(url)


@pytest.mark.parametrize("url", ["redis://u:secret@h:1/2", "rediss://:secret@h", "redis+sentinel://u:secret@h/s"])
def test_no_text_of_an_address_shows_its_password(url):
    address = parse_address(url)

    assert address.password == "secret"  # noqa: S105 - made up
    assert "secret" not in f"{address} {address!r}"


def test_a_url_that_cannot_be_read_shows_no_password_either():
    with pytest.raises(InvalidAddress) as refused:
        parse_address("redis://u:secret@h:99999")

    assert "secret" not in str(refused.value)


def test_a_password_file_gives_its_first_line(tmp_path):
    file = tmp_path / "password"
    file.write_text("open sesame\nignored\n")

    assert read_password(file) == "open sesame"
    assert parse_address("redis://h").with_password("sesame") == parse_address("redis://:sesame@h")


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"])
def test_a_password_file_without_a_password_is_refused(tmp_path, content):
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidAddress, match="redis password file: expected"):
        read_password(file)
