"""Which distribution of ONNX Runtime is installed: exactly one, because they share one folder.

Whichever of two is unpacked last wins, `pip check` is silent about it and removing either breaks the other.
Asked of the package metadata, so nothing needs to be imported.
"""

from importlib.metadata import PackageNotFoundError, version

from server.errors import FailedPrecondition

EXTRAS = {"onnxruntime": "cpu", "onnxruntime-gpu": "gpu"}
"""Distribution -> the extra of ours that brings it."""


def check_installation() -> str:
    """Return the name and version of the ONNX Runtime that is installed.

    Raises:
        FailedPrecondition: none is, or more than one.
    """
    found = {name: version_of for name in EXTRAS if (version_of := _version(name)) is not None}
    if len(found) > 1:
        raise FailedPrecondition(
            f"expected one of {', '.join(EXTRAS)}, both are installed and overwrite each other: remove both, "
            "then install one of the extras sluice[cpu] and sluice[gpu]"
        )
    if not found:
        raise FailedPrecondition("ONNX Runtime is not installed: install one of the extras sluice[cpu] and sluice[gpu]")
    return " ".join(next(iter(found.items())))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
