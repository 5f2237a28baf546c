"""Load for measuring: one call sent again and again, on a schedule or as fast as it is answered, and timed honestly."""
