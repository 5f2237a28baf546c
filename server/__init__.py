"""Sluice's inference server: Open Inference Protocol in, ONNX Runtime behind, batches in between."""

__version__ = "0.1.0"
