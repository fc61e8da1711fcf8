"""Counters, health, Prometheus metrics and the status file of a run."""
