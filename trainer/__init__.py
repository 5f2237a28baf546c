"""Offline training: data -> PyTorch -> ONNX -> `model_store/`.

This package and `server` meet only in the files of `model_store/`; neither imports the other.
"""
