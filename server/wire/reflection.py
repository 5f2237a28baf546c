"""gRPC server reflection, so that grpcurl and its like can ask this server what it speaks.

Versions v1 and v1alpha have the same messages; grpcio-reflection's v1alpha ones stand for both. Nothing else of that
package is used. Only the files behind the services that are served can be asked for.
"""

from collections.abc import Iterable

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2 as pb

from server.transports.base import StatusCode, Stream
from server.wire.rpc import parse
from server.wire.text import quote

SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


class Reflection:
    """Answers ServerReflectionInfo about `services`, which are full names known to protobuf's default pool."""

    def __init__(self, services: Iterable[str]) -> None:
        pool = descriptor_pool.Default()
        self._services = sorted(services)
        self._files: dict[str, FileDescriptor] = {}
        for service in self._services:
            self._add(pool.FindServiceByName(service).file)
        self._symbols = {symbol: file for file in self._files.values() for symbol in _symbols(file)}

    async def __call__(self, stream: Stream) -> None:
        """Answer each question in turn."""
        async for data in stream:
            await stream.send(self._answer(parse(pb.ServerReflectionRequest, data)).SerializeToString())

    def _add(self, file: FileDescriptor) -> None:
        if file.name not in self._files:
            self._files[file.name] = file
            for dependency in file.dependencies:
                self._add(dependency)

    def _answer(self, request: pb.ServerReflectionRequest) -> pb.ServerReflectionResponse:
        answer = pb.ServerReflectionResponse(valid_host=request.host, original_request=request)
        kind = request.WhichOneof("message_request")
        if kind == "list_services":
            names = sorted((*self._services, *SERVICES))
            answer.list_services_response.service.extend(pb.ServiceResponse(name=name) for name in names)
        elif kind == "file_by_filename":
            self._describe(answer, self._files.get(request.file_by_filename), request.file_by_filename)
        elif kind == "file_containing_symbol":
            self._describe(answer, self._symbols.get(request.file_containing_symbol), request.file_containing_symbol)
        else:  # no file here has extensions, which proto3 does not know
            self._describe(answer, None, "extension")
        return answer

    def _describe(self, answer: pb.ServerReflectionResponse, file: FileDescriptor | None, asked: str) -> None:
        if file is None:
            answer.error_response.error_code = StatusCode.NOT_FOUND
            answer.error_response.error_message = f"nothing known of {quote(asked)}"
            return
        proto = FileDescriptorProto()
        file.CopyToProto(proto)
        answer.file_descriptor_response.file_descriptor_proto.append(proto.SerializeToString())


def _symbols(file: FileDescriptor) -> Iterable[str]:
    """Yield the full names of a file's services, methods, messages and enums, nested ones included."""
    for service in file.services_by_name.values():
        yield service.full_name
        yield from (method.full_name for method in service.methods)
    pending = list(file.message_types_by_name.values())
    while pending:
        message = pending.pop()
        yield message.full_name
        yield from (enum.full_name for enum in message.enum_types)
        pending += message.nested_types
    yield from (enum.full_name for enum in file.enum_types_by_name.values())
