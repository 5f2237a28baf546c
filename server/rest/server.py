"""The HTTP port: KServe v2 routes, each one the gRPC method of the same meaning.

    GET  /v2/health/live  /v2/health/ready             ServerLive, ServerReady
    GET  /v2                                           ServerMetadata
    GET  /v2/models/M[/versions/V]                     ModelMetadata; also .../ready, .../config, .../stats
    POST /v2/models/M[/versions/V]/infer               ModelInfer, JSON or with binary tensors behind the JSON
    POST /v2/repository/index                          RepositoryIndex
    POST /v2/repository/models/M/load  .../unload      RepositoryModelLoad, RepositoryModelUnload

This module must never know models, queues or gRPC itself: it calls the handlers it is given.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiohttp import web
from google.protobuf.message import Message

from server.errors import InvalidRequest
from server.pb import open_inference_pb2 as oip
from server.rest.call import HTTP_STATUS, HttpCall
from server.rest.tensors import parse_request, render_response, wanted_as_binary
from server.rest.view import as_json
from server.transports.base import Fast, Methods, StatusCode, StatusError, Unary

SERVICE = "/inference.GRPCInferenceService/"
HEADER_LENGTH = "Inference-Header-Content-Length"
R = TypeVar("R", bound=Message)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RestServer:
    """A listening HTTP server in front of the gRPC handlers."""

    def __init__(self, methods: Methods, max_body_bytes: int, *, reuse_port: bool = False) -> None:
        self._methods = methods
        self._reuse_port = reuse_port
        self._application = web.Application(client_max_size=max_body_bytes, middlewares=[_errors])
        self._runner = web.AppRunner(self._application, access_log=None, handler_cancellation=True)
        self._application.add_routes(self._routes())

    async def start(self, host: str, port: int) -> int:
        """Open the port (0 for any free one) and return it. Raises OSError when it cannot be bound."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port, shutdown_timeout=5, reuse_port=self._reuse_port or None)
        await site.start()
        bound: int = self._runner.addresses[0][1]
        return bound

    async def close(self) -> None:
        """Stop accepting and let running requests finish for a few seconds. Idempotent."""
        await self._runner.cleanup()

    def _routes(self) -> list[web.RouteDef]:
        routes = [
            web.get("/v2/health/live", self._flag("ServerLive", oip.ServerLiveRequest, oip.ServerLiveResponse, "live")),
            web.get(
                "/v2/health/ready", self._flag("ServerReady", oip.ServerReadyRequest, oip.ServerReadyResponse, "ready")
            ),
            web.get("/v2", self._page("ServerMetadata", oip.ServerMetadataRequest, oip.ServerMetadataResponse)),
            web.post("/v2/repository/index", self._index),
            web.post(
                "/v2/repository/models/{model}/load",
                self._control("RepositoryModelLoad", oip.RepositoryModelLoadRequest),
            ),
            web.post(
                "/v2/repository/models/{model}/unload",
                self._control("RepositoryModelUnload", oip.RepositoryModelUnloadRequest),
            ),
        ]
        for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            routes += [
                web.get(path, self._page("ModelMetadata", oip.ModelMetadataRequest, oip.ModelMetadataResponse)),
                web.get(
                    f"{path}/ready", self._flag("ModelReady", oip.ModelReadyRequest, oip.ModelReadyResponse, "ready")
                ),
                web.get(f"{path}/config", self._page("ModelConfig", oip.ModelConfigRequest, oip.ModelConfigResponse)),
                web.get(
                    f"{path}/stats",
                    self._page("ModelStatistics", oip.ModelStatisticsRequest, oip.ModelStatisticsResponse),
                ),
                web.post(f"{path}/infer", self._infer),
            ]
        return routes

    def _flag(self, method: str, ask: type[Message], response: type[Message], field: str) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            answer = await self._call(method, request, _named(ask, request), response)
            return web.Response(status=200 if getattr(answer, field) else 503)

        return handler

    def _page(self, method: str, ask: type[Message], response: type[Message]) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            answer = await self._call(method, request, _named(ask, request), response)
            shown = answer.config if isinstance(answer, oip.ModelConfigResponse) else answer
            return web.json_response(as_json(shown))

        return handler

    def _control(self, method: str, ask: type[Message]) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            message = ask(model_name=request.match_info["model"])
            for key, value in (await _document(request)).get("parameters", {}).items():
                _set_parameter(message, str(key), value)
            await self._call(method, request, message, oip.RepositoryModelLoadResponse)
            return web.json_response({})

        return handler

    async def _index(self, request: web.Request) -> web.StreamResponse:
        ready = bool((await _document(request)).get("ready", False))
        message = oip.RepositoryIndexRequest(ready=ready)
        answer = await self._call("RepositoryIndex", request, message, oip.RepositoryIndexResponse)
        return web.json_response([as_json(model) for model in answer.models])

    async def _infer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        header_length = _header_length(request, len(body))
        version = request.match_info.get("version", "")
        message = parse_request(body, header_length, request.match_info["model"], version)
        binary = wanted_as_binary(message)
        message.parameters.pop("binary_data_output", None)
        for output in message.outputs:
            output.parameters.pop("binary_data", None)
        answer = await self._call("ModelInfer", request, message, oip.ModelInferResponse)
        rendered, length = render_response(answer, binary=binary)
        if length is None:
            return web.Response(body=rendered, content_type="application/json")
        headers = {HEADER_LENGTH: str(length)}
        return web.Response(body=rendered, headers=headers, content_type="application/octet-stream")

    async def _call(self, method: str, request: web.Request, message: Message, response: type[R]) -> R:
        call = HttpCall(SERVICE + method, request)
        registered = self._methods[SERVICE + method]
        if isinstance(registered, Unary):
            return response.FromString(await registered.handler(call, message.SerializeToString()))
        if not isinstance(registered, Fast):
            raise StatusError(StatusCode.UNIMPLEMENTED, f"{method} has no HTTP form")
        registered.handler(call, message.SerializeToString())
        try:
            return response.FromString(await call.answer)
        except asyncio.CancelledError:
            call.hang_up()
            raise


def _named(ask: type[Message], request: web.Request) -> Message:
    fields = {"name": request.match_info.get("model"), "version": request.match_info.get("version")}
    return ask(**{key: value for key, value in fields.items() if value is not None})


async def _document(request: web.Request) -> dict[str, dict[str, object]]:
    body = await request.read()
    try:
        document = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        raise InvalidRequest(f"the body: expected JSON, got {len(body)} bytes that are not") from None
    if not isinstance(document, dict) or not isinstance(document.get("parameters", {}), dict):
        raise InvalidRequest("the body: expected a JSON object, with an object as its parameters")
    return document


def _set_parameter(message: Message, key: str, value: object) -> None:
    field = {bool: "bool_param", int: "int64_param", str: "string_param"}.get(type(value))
    if field is None:
        raise InvalidRequest(f"parameters.{key[:64]}: expected a boolean, an integer or a string")
    setattr(message.parameters[key], field, value)  # type: ignore[attr-defined]


def _header_length(request: web.Request, body_bytes: int) -> int | None:
    text = request.headers.get(HEADER_LENGTH)
    if text is None:
        return None
    if not text.isdecimal() or int(text) > body_bytes:
        raise InvalidRequest(f"{HEADER_LENGTH}: expected at most the body's {body_bytes} bytes, got {text[:20]}")
    return int(text)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except StatusError as error:
        trailers = {key: value for key, value in error.trailers if isinstance(value, str)}
        pushback = trailers.get("grpc-retry-pushback-ms", "")
        headers = {"Retry-After": str(-(-int(pushback) // 1000))} if pushback.isdecimal() else {}
        return web.json_response({"error": error.details}, status=HTTP_STATUS[error.code], headers=headers)
    except InvalidRequest as error:
        return web.json_response({"error": str(error)}, status=400)
    except web.HTTPException as error:
        return web.json_response({"error": error.reason}, status=error.status)
