"""Several frontend processes on one port in front of one engine: what travels between them, and both its ends."""
