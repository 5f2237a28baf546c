"""The other server people write: grpc.server with a pool of threads, and one `session.run` for every request.

python -m bench.baselines.thread_pool MODEL_DIR... ; each directory is <name>/<version> with a model.onnx in it.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import onnxruntime

from bench.baselines.convert import answer, feeds
from server.pb import open_inference_pb2 as oip

SERVICE = "inference.GRPCInferenceService"


class InferenceServicer:
    """ModelInfer and nothing else."""

    def __init__(self, folders: list[Path]) -> None:
        self.sessions = {f.parent.name: onnxruntime.InferenceSession(f / "model.onnx") for f in folders}

    def ModelInfer(self, request: oip.ModelInferRequest, _: object) -> oip.ModelInferResponse:  # noqa: N802
        """Run one request."""
        return answer(request, self.sessions[request.model_name], feeds(request))


def main(folders: list[Path]) -> None:
    """Serve until killed; prints where."""
    method = grpc.unary_unary_rpc_method_handler(
        InferenceServicer(folders).ModelInfer,
        request_deserializer=oip.ModelInferRequest.FromString,
        response_serializer=oip.ModelInferResponse.SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(max_workers=10))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"listening grpc=127.0.0.1:{port}", flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
