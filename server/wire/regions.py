"""The SystemSharedMemory RPCs, and the refusal of all shared memory where the operator did not switch it on."""

from google.protobuf.message import Message

from server.errors import Unimplemented
from server.pb import open_inference_pb2 as pb
from server.wire.shared_memory import SharedMemory


class Regions:
    """Registers regions of shared memory for ModelInfer to read and write."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory

    async def status(self, request: pb.SystemSharedMemoryStatusRequest) -> pb.SystemSharedMemoryStatusResponse:
        """Return one region, or with an empty name all of them."""
        return pb.SystemSharedMemoryStatusResponse(
            regions={
                region.name: pb.SystemSharedMemoryStatusResponse.RegionStatus(
                    name=region.name, key=region.key, offset=region.offset, byte_size=region.byte_size
                )
                for region in self._memory.status(request.name)
            }
        )

    async def register(self, request: pb.SystemSharedMemoryRegisterRequest) -> pb.SystemSharedMemoryRegisterResponse:
        """Open a region under a name."""
        self._memory.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    async def unregister(
        self, request: pb.SystemSharedMemoryUnregisterRequest
    ) -> pb.SystemSharedMemoryUnregisterResponse:
        """Close a region, or with an empty name all of them."""
        self._memory.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()


async def refuse(_: Message) -> Message:
    """Answer every shared memory RPC that is not offered."""
    raise Unimplemented("this server takes no such tensors in shared memory; send raw_input_contents")
