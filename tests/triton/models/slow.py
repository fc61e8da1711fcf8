"""A model that takes 0.1 s a request, and one whose input says so hangs and does not listen to SIGTERM."""

import signal
import threading
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

SERVICE_S = 0.1


class TritonPythonModel:
    """Gives back its input, late or never."""

    def execute(self, requests: list[Any]) -> list[Any]:
        responses = []
        for request in requests:
            value = pb_utils.get_input_tensor_by_name(request, "seconds").as_numpy()
            if not np.isfinite(value).all():
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                threading.Event().wait()
            time.sleep(float(value.ravel()[0]))
            responses.append(pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("slept", value)]))
        return responses
