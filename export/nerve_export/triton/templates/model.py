"""Sequences of frames to labels; what it does is in nerve-deploy, which the server's Python needs installed."""

from nerve_stream.triton.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
