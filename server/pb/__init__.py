"""Generated from protos/ by protos/generate.py; edit those instead."""
