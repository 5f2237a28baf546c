import hashlib

import pytest
from google.protobuf import descriptor_pool

from server.errors import PermissionDenied, Unauthenticated
from server.transports.base import Fast, StatusCode, StatusError, Unary
from server.wire.auth import ANYBODY, Authenticator, InvalidKeys, Scope, parse_keys
from server.wire.reflection import SERVICES as REFLECTION
from server.wire.services import HEALTH, INFERENCE, JOBS, PREDICTIONS, paths
from tests.wire import Bench, FakeCall, FakeStream

KEY = "0123456789abcdef-infer"
KEYS = parse_keys([
    "# people", "", f"web:infer:{KEY}", "ops:read, admin:0123456789abcdef-admin",
    f"cron:infer,read:sha256={hashlib.sha256(b'hashed').hexdigest()}",
])  # fmt: skip


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ([("authorization", f"Bearer {KEY}")], "web"),
        ([("authorization", f"bearer {KEY}"), ("x", "y")], "web"),
        ([("api-key", KEY)], "web"),
        ([("api-key", "hashed")], "cron"),
    ],
)
def test_a_key_says_who_is_calling(metadata, name):
    assert Authenticator(KEYS).check(metadata, Scope.INFER).name == name


@pytest.mark.parametrize(
    "metadata",
    [
        [], [("api-key", "wrong")], [("authorization", KEY)], [("authorization", f"Basic {KEY}")],
        [("authorization", "Bearer ")], [("api-key", KEY), ("api-key", KEY)],
        [("api-key", KEY), ("authorization", "x")],
        [("api-key", "x" * (1 << 20))], [("authorization", "Bearer eyJhbGciOiJub25lIn0.e30.")], [("api-key", "\udcff")],
        [("api-key", KEY + " ")],
    ],
)  # fmt: skip
def test_anything_else_does_not(metadata):
    with pytest.raises(Unauthenticated) as error:
        Authenticator(KEYS).check(metadata, Scope.INFER)

    assert KEY not in str(error.value)


def test_a_key_without_the_scope_is_told_which_is_missing():
    with pytest.raises(PermissionDenied, match="expected a key with scope admin"):
        Authenticator(KEYS).check([("api-key", KEY)], Scope.ADMIN)


def test_without_a_file_everybody_may_call():
    assert Authenticator(None).check([], Scope.ADMIN) is ANYBODY


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "at least one line"),
        (["# only this"], "at least one line"),
        (["web:infer"], "line 1: expected name:scopes:key"),
        (["web:write:0123456789abcdef"], "line 1: expected scopes out of infer, read, admin"),
        (["web:infer:short"], "line 1: expected a key of 16 to 4096 ASCII characters, got 5"),
        (["", "web:infer:sha256=12"], "line 2: expected 64 hexadecimal digits"),
        (["a:infer:0123456789abcdef", "b:infer:0123456789abcdef"], "line 2: expected each name and key once"),
        (["a:infer:0123456789abcdef", "a:infer:0123456789abcdeX"], "line 2: expected each name and key once"),
    ],
)
def test_a_bad_key_file_is_refused_with_its_line(lines, says):
    with pytest.raises(InvalidKeys, match=says) as error:
        parse_keys(lines)

    assert "0123456789abcdef" not in str(error.value)


def every_method():
    for service in (INFERENCE, PREDICTIONS, JOBS, HEALTH):
        yield from paths(service).values()
    yield from (f"/{name}/ServerReflectionInfo" for name in REFLECTION)


def test_no_method_is_forgotten_and_none_is_extra():
    pool = descriptor_pool.Default()
    for service in (
        "inference.GRPCInferenceService",
        "sluice.v1.Predictions",
        "sluice.v1.Jobs",
        "grpc.health.v1.Health",
    ):
        assert pool.FindServiceByName(service) in (INFERENCE, PREDICTIONS, JOBS, HEALTH)

    assert set(Bench().methods) == set(every_method())


def test_reflection_can_be_switched_off():
    assert not [path for path in Bench(reflection=False).methods if "reflection" in path]


async def attempt(bench, path, metadata):
    """Call a method with bytes that no parser would take; return the status."""
    handler = bench.methods[path]
    if isinstance(handler, Fast):
        call = FakeCall(path, metadata)
        handler.handler(call, b"\xff")
        assert call.ended.wait(5)
        return call.code
    unary = isinstance(handler, Unary)
    running = (
        handler.handler(FakeCall(path, metadata), b"\xff")
        if unary
        else handler.handler(FakeStream([b"\xff"], path, metadata))
    )
    with pytest.raises(StatusError) as error:
        await running
    return error.value.code


@pytest.mark.parametrize("path", sorted(every_method()))
async def test_every_method_but_health_asks_for_a_key_before_it_parses(path):
    bench = Bench(keys=KEYS)
    expected = StatusCode.INVALID_ARGUMENT if "Health" in path else StatusCode.UNAUTHENTICATED

    assert await attempt(bench, path, ()) is expected
    assert bench.admission.inflight == 0


ADMIN = {
    "RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting", "LogSettings", "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister", "CudaSharedMemoryStatus", "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(ADMIN))
async def test_what_changes_the_server_needs_the_admin_scope(name):
    code = await attempt(Bench(keys=KEYS), paths(INFERENCE)[name], [("api-key", "hashed")])

    assert code is StatusCode.PERMISSION_DENIED
