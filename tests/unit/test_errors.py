import pytest

from server import errors
from server.transports.base import StatusCode
from server.wire.status import CODES, status_code, status_error


def tree(kind=errors.ServingError):
    for below in kind.__subclasses__():
        yield below
        yield from tree(below)


EXPECTED = {
    "InvalidRequest": "INVALID_ARGUMENT",
    "InvalidValues": "INVALID_ARGUMENT",
    "NotFound": "NOT_FOUND",
    "ModelNotFound": "NOT_FOUND",
    "JobNotFound": "NOT_FOUND",
    "AlreadyExists": "ALREADY_EXISTS",
    "Unauthenticated": "UNAUTHENTICATED",
    "PermissionDenied": "PERMISSION_DENIED",
    "Unimplemented": "UNIMPLEMENTED",
    "FailedPrecondition": "FAILED_PRECONDITION",
    "NeedsRedis": "FAILED_PRECONDITION",
    "ModelLoadFailed": "FAILED_PRECONDITION",
    "Unavailable": "UNAVAILABLE",
    "ModelNotReady": "UNAVAILABLE",
    "ShuttingDown": "UNAVAILABLE",
    "QueueUnavailable": "UNAVAILABLE",
    "Exhausted": "RESOURCE_EXHAUSTED",
    "QueueFull": "RESOURCE_EXHAUSTED",
    "DeadlineUnreachable": "RESOURCE_EXHAUSTED",
    "TooLarge": "RESOURCE_EXHAUSTED",
    "DeadlineExceeded": "DEADLINE_EXCEEDED",
    "Cancelled": "CANCELLED",
    "InferenceFailed": "INTERNAL",
}


def test_every_error_has_the_code_the_documentation_gives_it():
    assert {
        kind.__name__: status_code(kind("x")).name for kind in tree() if kind.__module__ == "server.errors"
    } == EXPECTED


def test_every_branch_of_the_tree_is_in_the_table_itself():
    missing = [kind for kind in errors.ServingError.__subclasses__() if kind not in CODES]

    assert missing == []


def test_reasons_are_labels_of_their_own():
    reasons = [kind.reason for kind in tree() if kind.__module__ == "server.errors"]

    assert len(set(reasons)) == len(reasons)
    assert all(reason.isidentifier() for reason in reasons)


@pytest.mark.parametrize(("seconds", "expected"), [(0.25, "250"), (0.0, "0"), (-1.0, "0"), (1.5, "1500")])
def test_a_retry_hint_becomes_grpcs_pushback_trailer(seconds, expected):
    status = status_error(errors.QueueFull("full", retry_after=seconds), "/s/M")

    assert list(status.trailers) == [("grpc-retry-pushback-ms", expected)]


def test_an_error_without_a_hint_has_no_trailer():
    assert list(status_error(errors.QueueFull("full"), "/s/M").trailers) == []


@pytest.mark.parametrize("error", [errors.InferenceFailed("/secret/path"), KeyError("secret"), MemoryError()])
def test_our_own_failures_read_alike(error):
    status = status_error(error, "/s/M")

    assert status.code is StatusCode.INTERNAL
    assert status.details.startswith("internal error, logged by the server as request ")
    assert "secret" not in status.details
