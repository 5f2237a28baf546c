"""Where models run: ONNX Runtime sessions, in child processes that may die or in this one."""
