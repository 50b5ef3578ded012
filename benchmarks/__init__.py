"""Published benchmarks: each is one command, seeded and repeatable."""
