"""Frontends and workers as separate processes with Redis between them, and both ends in one process with role all."""
