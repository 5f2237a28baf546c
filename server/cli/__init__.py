"""The command line: serve, predict, jobs, models, bench."""
