"""One trace from a client through frontend, Redis and worker, as a real collector hears it from real processes."""

import http.client
import json
import time
from contextlib import ExitStack

import grpc
import pytest

from server.pb import sluice_pb2 as pb
from tests import oip as wire
from tests.otlp import collector
from tests.redis_server import redis_server
from tests.server_process import serve

RPC = "inference.GRPCInferenceService/ModelInfer"
CALLER = "00f067aa0ba902b7"
COMPUTING = {"compute_input": {}, "compute_infer": {}, "compute_output": {}}
IN_PROCESS = {"queue": {}, "batch": COMPUTING}


def trace_id(number):
    return f"{number:032x}"


def caller(number, flags="01", **more):
    return [("traceparent", f"00-{trace_id(number)}-{CALLER}-{flags}"), *more.items()]


def infer(server, metadata=(), **fields):
    with server.channel() as channel:
        message = wire.churn([wire.CUSTOMER], **fields)
        return wire.outputs(wire.Stub(channel).ModelInfer(message, metadata=metadata))["probability"]


def lines(server, event):
    return [line for line in map(json.loads, filter(lambda text: text[0] == "{", server.log)) if line["event"] == event]


def test_a_server_by_itself_traces_what_its_callers_sample(store):
    with collector() as heard:
        with serve("--otlp-endpoint", heard.url, "--log-format", "json", store=store) as server:
            infer(server, caller(1, tracestate="vendor=1"), id="one")
            infer(server, caller(2, flags="00"), id="two")
            infer(server, id="three")
            with pytest.raises(grpc.RpcError):
                infer(server, caller(4), model_version="9")
            connection = http.client.HTTPConnection(server.http, timeout=10)
            connection.request("POST", "/v2/models/none/infer", '{"inputs": []}', dict(caller(5)))
            assert connection.getresponse().status == 404
            connection.close()
            ended = server.stop()

        assert ended == 0
        assert heard.tree(trace_id(1), CALLER) == {RPC: IN_PROCESS}
        rpc = next(span for span in heard.trace(trace_id(1)) if span.name == RPC)
        assert rpc.state == "vendor=1"
        assert rpc.attributes["rpc.system"] == "grpc"
        assert rpc.attributes["rpc.grpc.status_code"] == 0
        assert rpc.attributes["sluice.model"] == "churn"
        assert (rpc.resource["service.name"], rpc.resource["sluice.role"]) == ("sluice", "all")
        assert all(rpc.start <= s.start <= s.end <= rpc.end for s in heard.trace(trace_id(1)))

        assert heard.trace(trace_id(2)) == []

        (own,) = [span for span in heard.spans if span.attributes.get("sluice.request.id") == "three"]
        assert own.parent_id == ""
        assert heard.tree(own.trace_id, "") == {RPC: IN_PROCESS}

        assert heard.tree(trace_id(4), CALLER) == heard.tree(trace_id(5), CALLER) == {RPC: {}}
        refused = {number: heard.trace(trace_id(number))[0].attributes for number in (4, 5)}
        assert {number: about["rpc.grpc.status_code"] for number, about in refused.items()} == {4: 5, 5: 5}
        assert refused[5]["rpc.system"] == "http"

    written = [line.get("trace_id") for line in lines(server, "request")]
    assert written == [trace_id(1), trace_id(2), own.trace_id, trace_id(4), trace_id(5)]


def test_a_collector_that_is_not_there_costs_no_answer_and_no_clean_stop(store):
    with serve("--otlp-endpoint", "http://127.0.0.1:1", "--log-format", "json", store=store) as server:
        infer(server, caller(1))
        began = time.monotonic()

        assert server.stop() == 0

    assert time.monotonic() - began < 20
    assert {"traces_not_sent", "traces_lost"} & {json.loads(line)["event"] for line in server.log}


@pytest.mark.redis
def test_a_trace_goes_through_redis_to_the_worker_and_back(store):
    with collector() as heard, redis_server() as redis, ExitStack() as stack:
        flags = ("--queue", redis.url, "--otlp-endpoint", heard.url, "--log-format", "json")
        worker = stack.enter_context(serve("--role", "worker", *flags, store=store))
        front = stack.enter_context(serve("--role", "frontend", *flags, store=store))
        infer(front, caller(1), id="online")
        infer(front, caller(2, flags="00"))
        job = run_job(front, caller(3))
        ended = front.stop(), worker.stop()

    assert ended == (0, 0)
    assert heard.tree(trace_id(1), CALLER) == {RPC: {"redis": {}, "process churn": IN_PROCESS}}
    assert roles(heard, 1) == {RPC: "frontend", "redis": "worker", "process churn": "worker", "queue": "worker",
                               "batch": "worker", **dict.fromkeys(COMPUTING, "worker")}  # fmt: skip
    assert heard.trace(trace_id(2)) == []
    assert heard.tree(trace_id(3), CALLER)["sluice.v1.Jobs/Submit"] == {"redis": {}, "process churn": IN_PROCESS}
    processed = next(span for span in heard.trace(trace_id(3)) if span.name == "process churn")
    assert processed.attributes["messaging.message.id"] == job
    assert processed.attributes["sluice.attempt"] == 1

    (line,) = lines(worker, "job_run")
    assert (line["key"], line["trace_id"], line["outcome"]) == (job, trace_id(3), "done")
    assert [line["trace_id"] for line in lines(worker, "request_run")] == [trace_id(1), trace_id(2)]
    assert lines(worker, "request_run")[0]["id"] == "online"


@pytest.mark.redis
def test_workers_write_the_callers_trace_id_also_where_nobody_traces(store):
    with redis_server() as redis, ExitStack() as stack:
        flags = ("--queue", redis.url, "--log-format", "json")
        worker = stack.enter_context(serve("--role", "worker", *flags, store=store))
        front = stack.enter_context(serve("--role", "frontend", *flags, store=store))
        infer(front, caller(1))
        infer(front)
        run_job(front, caller(3, flags="00"))
        front.stop()
        worker.stop()

    assert [line.get("trace_id") for line in lines(front, "request")[:2]] == [trace_id(1), None]
    assert [line.get("trace_id") for line in lines(worker, "request_run")] == [trace_id(1), None]
    assert [line.get("trace_id") for line in lines(worker, "job_run")] == [trace_id(3)]


def run_job(front, metadata):
    """Submit a job and return its id once it is done."""
    with front.channel() as channel:
        submit = channel.unary_unary("/sluice.v1.Jobs/Submit", pb.SubmitRequest.SerializeToString, pb.Job.FromString)
        wait = channel.unary_stream("/sluice.v1.Jobs/Wait", pb.WaitRequest.SerializeToString, pb.Job.FromString)
        submitted = submit(pb.SubmitRequest(request=wire.churn([wire.CUSTOMER])), metadata=metadata, timeout=30)
        *_, last = wait(pb.WaitRequest(id=submitted.id), timeout=30)
    assert last.state == pb.Job.DONE
    return submitted.id


def roles(heard, number):
    return {span.name: span.resource["sluice.role"] for span in heard.trace(trace_id(number))}


def test_frontend_processes_trace_what_their_engine_ran(store):
    with collector() as heard:
        flags = ("--frontends", "2", "--otlp-endpoint", heard.url, "--log-format", "json")
        with serve(*flags, store=store) as server:
            for number in range(1, 9):
                infer(server, caller(number))
            ended = server.stop()

    assert ended == 0
    for number in range(1, 9):
        assert heard.tree(trace_id(number), CALLER) == {RPC: IN_PROCESS}
        rpc, *parts = sorted(heard.trace(trace_id(number)), key=lambda span: span.name != RPC)
        assert all(rpc.start <= part.start <= part.end <= rpc.end for part in parts)
