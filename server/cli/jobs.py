"""`sluice jobs`: durable jobs from the command line. Needs a server with a Redis queue."""

import argparse
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from server.cli.bulk import SERVICE, row_values, submit_file
from server.cli.channel import Client, add_flags
from server.cli.main import CommandError
from server.codec import encode_bytes
from server.pb import open_inference_pb2 as oip
from server.pb import sluice_pb2 as pb

Ask = Callable[[Client, argparse.Namespace], int]
Actions: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - its only name


def configure(parser: argparse.ArgumentParser) -> None:
    """Add submit, status, result, cancel, list and dead."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    submit = _action(actions, "submit", "accept work now, do it as soon as a worker is free", _submit)
    submit.add_argument("model", metavar="MODEL")
    what = submit.add_mutually_exclusive_group(required=True)
    what.add_argument("--csv", type=Path, metavar="FILE", help="one job a few rows; columns are the model's inputs")
    what.add_argument("--text", help="one text, for a model with one BYTES input")
    what.add_argument("--body", type=Path, metavar="FILE", help="a serialised ModelInferRequest")
    submit.add_argument("--out", type=Path, metavar="FILE", help="results of --csv (default: beside it, .results.csv)")
    submit.add_argument("--key", default="", help="idempotency key: the same key is the same job")
    submit.add_argument("--priority", type=int, default=0, help="1 is the most urgent (default: 0, the model's own)")
    submit.add_argument("--start-within", type=float, default=0.0, metavar="SECONDS", help="else it expires")
    for name, text, ask in (
        ("status", "the state of a job", _status),
        ("result", "wait for a job and print its outputs", _result),
        ("cancel", "give a job up", _cancel),
    ):
        _action(actions, name, text, ask).add_argument("id", metavar="ID")
    listed = _action(actions, "list", "jobs, newest first", _list)
    listed.add_argument("--model", default="", metavar="MODEL")
    listed.add_argument(
        "--state", default="STATE_UNSPECIFIED", choices=[name.lower() for name in pb.Job.State.keys()[1:]]
    )
    _add_dead(actions)


def run(arguments: argparse.Namespace) -> int:
    """Ask and print. Raises CommandError."""
    with Client(arguments) as client:
        code: int = arguments.ask(client, arguments)
        return code


def _action(actions: Actions, name: str, text: str, ask: Ask) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(ask=ask)
    add_flags(parser)
    return parser


def _add_dead(actions: Actions) -> None:
    dead = actions.add_parser("dead", help="jobs that used up their attempts").add_subparsers(
        dest="dead", required=True, metavar="ACTION"
    )
    _action(dead, "list", "the dead jobs, newest first", _list_dead).add_argument("--model", default="")
    _action(dead, "retry", "queue a dead job again", _retry_dead).add_argument("id", metavar="ID")
    _action(dead, "drop", "forget a dead job", _drop_dead).add_argument("id", metavar="ID")


def _submit(client: Client, arguments: argparse.Namespace) -> int:
    if arguments.csv is not None:
        print(f"results are in {submit_file(client, arguments.model, arguments.csv, arguments.out)}")
        return 0
    request = pb.SubmitRequest(
        request=_body(arguments) if arguments.body else _text(client, arguments),
        idempotency_key=arguments.key,
        priority=arguments.priority,
        deadline_seconds=arguments.start_within,
    )
    _print(arguments, client.call(SERVICE + "Submit", request, pb.Job))
    return 0


def _body(arguments: argparse.Namespace) -> oip.ModelInferRequest:
    try:
        return oip.ModelInferRequest.FromString(arguments.body.read_bytes())
    except OSError as error:
        raise CommandError(f"cannot read {arguments.body}: {error.strerror}") from error


def _text(client: Client, arguments: argparse.Namespace) -> oip.ModelInferRequest:
    ask = oip.ModelMetadataRequest(name=arguments.model)
    metadata = client.call("/inference.GRPCInferenceService/ModelMetadata", ask, oip.ModelMetadataResponse)
    if [(tensor.datatype, list(tensor.shape)) for tensor in metadata.inputs] != [("BYTES", [-1, 1])]:
        raise CommandError(f"--text: expected a model with one BYTES input, {arguments.model} has others")
    request = oip.ModelInferRequest(model_name=arguments.model)
    request.inputs.add(name=metadata.inputs[0].name, datatype="BYTES", shape=[1, 1])
    request.raw_input_contents.append(encode_bytes([arguments.text.encode()]))
    return request


def _status(client: Client, arguments: argparse.Namespace) -> int:
    _print(arguments, client.call(SERVICE + "Get", pb.GetRequest(id=arguments.id), pb.Job))
    return 0


def _result(client: Client, arguments: argparse.Namespace) -> int:
    *_, job = client.stream(SERVICE + "Wait", pb.WaitRequest(id=arguments.id), pb.Job)
    _print(arguments, job)
    return 0 if job.state == pb.Job.DONE else 1


def _cancel(client: Client, arguments: argparse.Namespace) -> int:
    _print(arguments, client.call(SERVICE + "Cancel", pb.CancelRequest(id=arguments.id), pb.Job))
    return 0


def _list(client: Client, arguments: argparse.Namespace) -> int:
    state = arguments.state.upper()
    token = ""
    while True:
        request = pb.ListRequest(model_name=arguments.model, state=state, page_size=500, page_token=token)
        page = client.call(SERVICE + "List", request, pb.ListResponse)
        for job in page.jobs:
            _print(arguments, job)
        token = page.next_page_token
        if not token:
            return 0


def _list_dead(client: Client, arguments: argparse.Namespace) -> int:
    request = pb.ListDeadRequest(model_name=arguments.model, page_size=1000)
    for job in client.call(SERVICE + "ListDead", request, pb.ListDeadResponse).jobs:
        _print(arguments, job)
    return 0


def _retry_dead(client: Client, arguments: argparse.Namespace) -> int:
    _print(arguments, client.call(SERVICE + "RetryDead", pb.RetryDeadRequest(id=arguments.id), pb.Job))
    return 0


def _drop_dead(client: Client, arguments: argparse.Namespace) -> int:
    client.call(SERVICE + "DropDead", pb.DropDeadRequest(id=arguments.id), pb.DropDeadResponse)
    return 0


def _print(arguments: argparse.Namespace, job: pb.Job) -> None:
    if arguments.json:
        print(json.dumps(dict(_fields(job))))
        return
    submitted = datetime.fromtimestamp(job.submitted_at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    line = f"{job.id}  {pb.Job.State.Name(job.state):<9}  {submitted}  attempts {job.attempts}"
    print(f"{line}  {job.error.message}".rstrip())
    for tensor, raw in zip(job.result.outputs, job.result.raw_output_contents, strict=True):
        print(f"  {tensor.name}: {'; '.join(str(row) for row in row_values(tensor, raw))}")


def _fields(job: pb.Job) -> Iterator[tuple[str, object]]:
    yield "id", job.id
    yield "state", pb.Job.State.Name(job.state)
    yield "model", job.model_name
    yield "version", job.model_version
    yield "attempts", job.attempts
    yield "submitted_at_ms", job.submitted_at_ms
    yield "finished_at_ms", job.finished_at_ms
    if job.HasField("error"):
        yield "error", {"code": job.error.code, "message": job.error.message}
    if job.HasField("result"):
        yield (
            "outputs",
            {
                tensor.name: row_values(tensor, raw)
                for tensor, raw in zip(job.result.outputs, job.result.raw_output_contents, strict=True)
            },
        )
