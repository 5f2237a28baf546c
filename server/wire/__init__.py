"""What the bytes mean: the Open Inference Protocol, the typed API, jobs and health, over any transport."""
