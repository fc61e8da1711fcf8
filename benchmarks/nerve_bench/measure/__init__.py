"""Measurements on the tiny world: accuracy, latency, memory, cost, the walk, video."""
