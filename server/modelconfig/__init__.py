"""Reads how an operator wants a model served, and joins it with what the ONNX file says.

`config.py` reads config.pbtxt, or Triton's JSON form of it, into a `ModelConfig`; `resolve.py` makes a `ModelSpec` of
that and the tensors ONNX Runtime reports. Neither needs protobuf's own parsers: those skip unknown fields without a
word and forget the line of every field they read, and we owe the operator both.
"""

from server.modelconfig.config import ConfigFile, read_config, read_override
from server.modelconfig.resolve import resolve

__all__ = ["ConfigFile", "read_config", "read_override", "resolve"]
