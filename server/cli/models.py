"""`sluice models`: what is served, in which state, and (with explicit control) loading and unloading."""

import argparse
import json

from server.cli.channel import Client, add_flags
from server.pb import open_inference_pb2 as oip

SERVICE = "/inference.GRPCInferenceService/"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add list, show, load and unload."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text, ask in (
        ("list", "every model and version known, and its state", _list),
        ("show", "inputs, outputs and counters of one model", _show),
        ("load", "load or reload a model (needs --model-control explicit)", _load),
        ("unload", "take a model out of service (needs --model-control explicit)", _unload),
    ):
        action = actions.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        action.set_defaults(ask=ask)
        add_flags(action)
        if name != "list":
            action.add_argument("name", metavar="MODEL")


def run(arguments: argparse.Namespace) -> int:
    """Ask and print. Raises CommandError."""
    with Client(arguments) as client:
        arguments.ask(client, arguments)
    return 0


def _list(client: Client, arguments: argparse.Namespace) -> None:
    index = client.call(SERVICE + "RepositoryIndex", oip.RepositoryIndexRequest(), oip.RepositoryIndexResponse)
    if arguments.json:
        for model in index.models:
            row = {"name": model.name, "version": model.version, "state": model.state, "reason": model.reason}
            print(json.dumps(row))
        return
    width = max((len(model.name) for model in index.models), default=5)
    for model in index.models:
        print(f"{model.name:<{width}}  {model.version or '-':>4}  {model.state:<11}  {model.reason}".rstrip())


def _show(client: Client, arguments: argparse.Namespace) -> None:
    metadata = client.call(
        SERVICE + "ModelMetadata", oip.ModelMetadataRequest(name=arguments.name), oip.ModelMetadataResponse
    )
    counted = client.call(
        SERVICE + "ModelStatistics", oip.ModelStatisticsRequest(name=arguments.name), oip.ModelStatisticsResponse
    )
    tensors = [("input", tensor) for tensor in metadata.inputs] + [("output", tensor) for tensor in metadata.outputs]
    if arguments.json:
        shown = [
            {"kind": kind, "name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
            for kind, tensor in tensors
        ]
        rows = {model.version: model.inference_count for model in counted.model_stats}
        print(json.dumps({"name": metadata.name, "versions": list(metadata.versions), "tensors": shown, "rows": rows}))
        return
    print(f"{metadata.name}  {metadata.platform}  versions {', '.join(metadata.versions)}")
    for kind, tensor in tensors:
        print(f"  {kind:<6}  {tensor.name:<20}  {tensor.datatype:<6}  {list(tensor.shape)}")
    for model in counted.model_stats:
        mean = model.inference_count / model.execution_count if model.execution_count else 0.0
        ran = f"{model.inference_count} rows in {model.execution_count} batches"
        print(f"  version {model.version}: {ran}, {mean:.1f} rows a batch")


def _load(client: Client, arguments: argparse.Namespace) -> None:
    request = oip.RepositoryModelLoadRequest(model_name=arguments.name)
    client.call(SERVICE + "RepositoryModelLoad", request, oip.RepositoryModelLoadResponse)
    _list(client, arguments)


def _unload(client: Client, arguments: argparse.Namespace) -> None:
    request = oip.RepositoryModelUnloadRequest(model_name=arguments.name)
    client.call(SERVICE + "RepositoryModelUnload", request, oip.RepositoryModelUnloadResponse)
    _list(client, arguments)
