"""Triton: the model that a Triton server runs for sequences of frames, and the client that looks like a segmenter.

The server's side (`model`, `stages`) needs the base install; the client (`client`) the extra `triton` as well.
"""
