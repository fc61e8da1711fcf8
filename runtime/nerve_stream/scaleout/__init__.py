"""Thousands of files by many processes, or by a cluster with Ray Data: the same inputs, chunks, worker and report for both.

What is done is known from small records beside the outputs, which the workers write themselves; so a run that is started
again, and a worker that is started again, do only what is missing.
"""
