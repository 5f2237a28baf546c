"""gRPC over our own HTTP/2 (RFC 9113), in plain Python: a call costs what this package does, and nothing else."""
