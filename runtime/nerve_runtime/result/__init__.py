"""The result of a frame, and the forms that others take it in."""

from nerve_runtime.result.frame_result import FrameResult
from nerve_runtime.result.instance import Instance, Instances
from nerve_runtime.result.records import result_record
from nerve_runtime.result.shapes import outlines, run_lengths

__all__ = ["FrameResult", "Instance", "Instances", "outlines", "result_record", "run_lengths"]
