"""Frames through a segmenter: from one source without loss, or from many at once with the newest frame winning.

Reader -> queue -> worker -> queue -> writer. Each source has a reader and a writer thread; the worker is one for all, in
this process (`LocalWorker`) or, so that a hang or a crash ends nothing else, in one of its own (`ProcessWorker`).
"""

from nerve_stream.pipeline.job import StreamControl, StreamJob, StreamOptions, StreamReport
from nerve_stream.pipeline.local_worker import LocalWorker
from nerve_stream.pipeline.process_worker import ProcessWorker
from nerve_stream.pipeline.run import run_streams
from nerve_stream.pipeline.segmenter_options import SegmenterOptions
from nerve_stream.pipeline.worker import Classes, FrameLostError, Worker

__all__ = [
    "Classes",
    "FrameLostError",
    "LocalWorker",
    "ProcessWorker",
    "SegmenterOptions",
    "StreamControl",
    "StreamJob",
    "StreamOptions",
    "StreamReport",
    "Worker",
    "run_streams",
]
