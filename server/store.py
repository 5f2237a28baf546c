"""The model store on disk: which models and versions are there, and what their config.pbtxt says.

    <root>/<model>/config.pbtxt                 optional, Triton's text format
    <root>/<model>/<label file>                 named by config.pbtxt; may lie in the version directory too
    <root>/<model>/<version>/model.onnx         version: a decimal number without leading zeros, from 1
    <root>/<model>/<version>/model.onnx/...     Triton's other form: a directory of that name with the file in it

Anything else is not ours to look at. Links may point anywhere inside the root, never out of it. Everything here
reads the disk and may block, so it is called from worker threads; this module must never know what loads or serves.
"""

import os
import re
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from typing_extensions import override

from server.errors import ModelLoadFailed, ModelNotFound
from server.modelconfig import ConfigFile, read_config, read_override
from server.spec import ModelConfig, ModelVersion, TensorSpec, VersionPolicy

CONFIG = "config.pbtxt"
MAX_CONFIG_BYTES = 1 << 20
MAX_LABEL_BYTES = 4 << 20

_VERSION = re.compile(r"[1-9][0-9]{0,18}")
_MODEL = re.compile(r"(?!\.)[^/\x00-\x1f\x7f]{1,255}")
_NOT_MODELS = frozenset({"lost+found"})
"""Directories that file systems make, and that only root may read."""

Stamp = tuple[str, int, int, int]
"""Path below the model's directory, inode, size and modification time in nanoseconds."""


class StoreError(Exception):
    """The store as a whole cannot be used; the text is one line for the operator."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What changes when a model's files do: those beside config.pbtxt, and those of each version."""

    files: tuple[Stamp, ...]
    versions: Mapping[int, tuple[Stamp, ...]]


@dataclass(frozen=True, slots=True)
class StoredModel:
    """One model as the store has it. `problems` are the version directories that cannot be loaded, and why."""

    config: ModelConfig
    versions: Mapping[int, ModelVersion]
    problems: Mapping[int, str]
    fingerprint: Fingerprint


def select(policy: VersionPolicy, versions: Collection[int]) -> tuple[int, ...]:
    """Return the versions that a policy serves, ascending."""
    if policy.kind == "specific":
        return tuple(sorted(set(policy.versions) & set(versions)))
    newest = sorted(versions)
    return tuple(newest if policy.kind == "all" else newest[-policy.latest :])


class Store:
    """A directory of models. Holds nothing: every call looks at the disk."""

    def __init__(self, root: Path) -> None:
        self._path = root

    @override
    def __str__(self) -> str:
        return f"model store {self._path}"

    def names(self) -> list[str]:
        """Return the models, sorted: directories with a config.pbtxt or a version in them.

        Raises:
            StoreError: the store is missing or cannot be read.
        """
        try:
            with os.scandir(self._path) as entries:
                found = [entry.name for entry in entries if _MODEL.fullmatch(entry.name) and entry.is_dir()]
        except OSError as error:
            raise StoreError(f"{self}: expected a directory of models: {error.strerror}") from error
        return sorted(name for name in found if name not in _NOT_MODELS and _holds_a_model(self._path / name))

    def scan(self) -> dict[str, Fingerprint]:
        """Return the fingerprint of every model. Raises StoreError."""
        return {name: fingerprint(self._path / name) for name in self.names()}

    def read(self, name: str, override: str | None = None) -> StoredModel:
        """Read one model's configuration and versions; `override` is JSON that takes the place of config.pbtxt.

        Raises:
            ModelNotFound: the store has no such model.
            ModelLoadFailed: its configuration is wrong, or a link leads out of the store.
        """
        root = self._path.resolve()
        directory = root / name
        if not _MODEL.fullmatch(name) or name in _NOT_MODELS or not directory.is_dir():
            raise ModelNotFound(f"model {name[:64]!r}: expected a directory of that name in the model store")
        _check_inside(directory, root)
        before = fingerprint(directory)  # first, so that a change while we read is seen as one later
        file = read_override(override, name) if override is not None else _read_config(directory, root)
        versions: dict[int, ModelVersion] = {}
        problems: dict[int, str] = {}
        for version in sorted(before.versions):
            try:
                versions[version] = _read_version(directory / str(version), file, root)
            except ModelLoadFailed as error:
                problems[version] = str(error)
        return StoredModel(file.config, versions, problems, before)


def fingerprint(directory: Path) -> Fingerprint:
    """Return what identifies the present state of a model's directory; what cannot be read counts as a state too."""
    files: list[Stamp] = []
    versions: dict[int, tuple[Stamp, ...]] = {}
    try:
        with os.scandir(directory) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if _is_version(entry):
                    versions[int(entry.name)] = _stamps(Path(entry.path), entry.name)
                elif entry.is_dir():
                    files += _stamps(Path(entry.path), entry.name) if entry.name == "warmup" else ()
                else:
                    files.append(_stamp(entry.name, Path(entry.path)))
    except OSError as error:
        files.append((error.strerror or "unreadable", 0, 0, 0))
    return Fingerprint(tuple(files), versions)


def _stamps(directory: Path, name: str) -> tuple[Stamp, ...]:
    stamps = [_stamp(name, directory)]
    for folder, folders, files in os.walk(directory):
        folders.sort()
        for file in sorted(files):
            path = Path(folder) / file
            stamps.append(_stamp(str(path.relative_to(directory.parent)), path))
    return tuple(stamps)


def _stamp(name: str, path: Path) -> Stamp:
    try:
        about = path.stat()
    except OSError:
        about = path.lstat()  # a link to nowhere, which may lead somewhere at the next look
    return name, about.st_ino, about.st_size, about.st_mtime_ns


def _is_version(entry: "os.DirEntry[str]") -> bool:
    return _VERSION.fullmatch(entry.name) is not None and int(entry.name) < 1 << 63 and entry.is_dir()


def _holds_a_model(directory: Path) -> bool:
    try:
        with os.scandir(directory) as entries:
            return any(entry.name == CONFIG or _is_version(entry) for entry in entries)
    except OSError:
        return True  # one that cannot be read is a model that cannot be loaded, and is to be seen as that


def _read_config(directory: Path, root: Path) -> ConfigFile:
    place = f"{directory.name}/{CONFIG}"
    data = _read_file(directory / CONFIG, place, MAX_CONFIG_BYTES, root)
    if data is None:
        return ConfigFile(ModelConfig(directory.name), {})
    return read_config(_text(data, place), directory.name, place)


def _read_version(directory: Path, file: ConfigFile, root: Path) -> ModelVersion:
    place = f"{directory.parent.name}/{directory.name}"
    _check_inside(directory, root)
    model_file = directory / file.config.model_filename
    if model_file.is_dir():
        model_file /= file.config.model_filename
    if not model_file.exists():
        raise ModelLoadFailed(f"{place}: expected a file {file.config.model_filename!r}, there is none")
    _check_inside(model_file, root)
    outputs = tuple(_with_labels(output, file.label_files, directory, root) for output in file.config.outputs)
    return ModelVersion(replace(file.config, outputs=outputs), directory.name, directory, model_file)


def _with_labels(output: TensorSpec, files: Mapping[str, str], directory: Path, root: Path) -> TensorSpec:
    """Return the output with its labels, one a line, from the version's directory or else the model's."""
    name = files.get(output.name)
    if name is None:
        return output
    for folder in (directory, directory.parent):
        data = _read_file(folder / name, f"{directory.parent.name}/{name}", MAX_LABEL_BYTES, root)
        if data is not None:
            text = _text(data, f"{directory.parent.name}/{name}").rstrip()
            return replace(output, labels=tuple(line.strip() for line in text.split("\n") if text))
    raise ModelLoadFailed(
        f"output {output.name[:64]!r}: expected label_filename {name!r} beside {CONFIG} or in the version directory"
    )


def _read_file(path: Path, place: str, limit: int, root: Path) -> bytes | None:
    """Return what a small regular file holds, None when it is not there. A FIFO or a device is never read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelLoadFailed(f"{place}: {error.strerror}") from error
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ModelLoadFailed(f"{place}: expected a regular file")
        _check_inside(path, root)
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ModelLoadFailed(f"{place}: expected at most {limit} bytes")
    return data


def _text(data: bytes, place: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ModelLoadFailed(f"{place}: expected UTF-8, byte {error.start} is not") from error


def _check_inside(path: Path, root: Path) -> None:
    try:
        resolved = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise ModelLoadFailed(f"{path.name}: the link leads nowhere") from error
    if not resolved.is_relative_to(root):
        raise ModelLoadFailed(f"{path.relative_to(root)}: expected a path inside the model store, it links out of it")
