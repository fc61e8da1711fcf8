"""Tests that run a real Triton server, which make test-slow fetches; skipped by name where it is absent."""
