"""Checks of everything below deploy/: files by their own tools, and a running platform by its Prometheus."""
