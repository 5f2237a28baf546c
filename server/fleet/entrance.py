"""Where what a worker claimed enters one version: under its number, whatever was asked for, and only if it fits.

This module must never know Redis, nor what runs a request.
"""

from dataclasses import replace

from server.errors import InvalidRequest
from server.messages import Form, InferRequest, Packed, Reply, Ticket
from server.sessions.layout import fits
from server.spec import ModelSpec
from server.work import Submit


class Entrance:
    """Stands before `submit` of the version with this spec. Belongs to one thread."""

    def __init__(self, spec: ModelSpec, submit: Submit) -> None:
        self._spec = spec
        self._submit = submit
        self._fitting: Form | None = None
        """The last form that fitted: the envelope has one object for all requests that look alike."""

    def __call__(self, request: InferRequest, reply: Reply) -> Ticket:
        """Submit a request.

        Raises:
            InvalidRequest: its tensors are not this version's.
            ServingError: what `submit` raises.
        """
        form = request.inputs.form if isinstance(request.inputs, Packed) else None
        if form is None or form is not self._fitting:
            check_fit(request, self._spec)
            self._fitting = form
        version = self._spec.version
        fitting = request if request.model_version == version else replace(request, model_version=version)
        return self._submit(fitting, reply)


def check_fit(request: InferRequest, spec: ModelSpec) -> None:
    """Raise InvalidRequest unless the tensors are this version's: a job may be older than what answers it."""
    promised = {tensor.name: tensor for tensor in spec.inputs}
    for tensor in request.inputs:
        known = promised.pop(tensor.name, None)
        if known is None or tensor.datatype != known.datatype or not fits(tensor.shape, known.shape):
            wanted = "no such input" if known is None else f"{known.datatype} {list(known.shape)}"
            raise InvalidRequest(
                f"input {tensor.name!r:.64}: version {spec.version} takes {wanted},"
                f" the request was accepted with {tensor.datatype} {list(tensor.shape)}"
            )
    missing = [name for name, tensor in promised.items() if not tensor.optional]
    if missing:
        raise InvalidRequest(f"version {spec.version} takes input {missing[0]!r:.64} as well, the request has none")
