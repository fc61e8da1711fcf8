"""Accuracy, latency, training of the tiny models, and the synthetic world: everything that measures or feeds the rest."""
