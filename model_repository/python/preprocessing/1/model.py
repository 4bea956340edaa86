"""Python-backend twin of `preprocessing_onnx`: fills telemetry drop-outs.

A row with NaN or Inf is replaced by the last valid row before it, leading invalid rows by the
first valid row, and telemetry without any valid row by zeros.

It also says whose telemetry this is, the config's parameter `channel`, so that `omnianomaly_py`
behind it in an ensemble takes that channel's weights.

Run this file for a self-check.
"""

import numpy as np

from builder.serving import python_twin
from builder.stage import Tensor

try:
    import triton_python_backend_utils as pb_utils
except ModuleNotFoundError:  # run directly, not by the server
    from builder.serving import pb_stand_in as pb_utils

INPUTS = (Tensor("telemetry", "FP32", ("T", 25)),)
OUTPUTS = (
    Tensor("input_data", "FP32", ("T", 25)),
    Tensor("sample_valid", "BOOL", ("T",)),
    Tensor("channel", "BYTES", (1,)),
)


def fill(telemetry):
    """Fill FP32 [T,25]; returns it with BOOL [T], true where a row is as it was sent."""
    valid = np.isfinite(telemetry).all(axis=1)
    if valid.all():
        return telemetry, valid
    if not valid.any():
        return np.zeros_like(telemetry), valid
    source = np.where(valid, np.arange(len(valid)), valid.argmax())
    return telemetry[np.maximum.accumulate(source)], valid


class TritonPythonModel:
    """The model as the python backend wants it."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        """Declare the tensors."""
        return python_twin.declare(auto_complete_model_config, INPUTS, OUTPUTS)

    def initialize(self, args):
        """Read the parameter."""
        channel = python_twin.parameter(args, "channel", "E-1")
        self.channel = np.array([channel.encode()], np.object_)

    def execute(self, requests):
        """Answer a batch of requests, an empty one with empty tensors."""
        return python_twin.answer(pb_utils, requests, self.compute, INPUTS, smallest=0)

    def compute(self, batch, stop_if_abandoned):
        """Fill each request's telemetry; nothing is gained by joining them first."""
        answers = []
        for arrays in batch:
            stop_if_abandoned()
            filled, valid = fill(arrays["telemetry"])
            answers.append({"input_data": filled, "sample_valid": valid, "channel": self.channel})
        return answers

    def finalize(self):
        """Called by the server when the model is unloaded; nothing is held."""


if __name__ == "__main__":
    from builder.families.anomaly.models import preprocessing
    from builder.serving.self_check import self_check

    def expected(arrays):
        """The reference of the native stage, and the channel."""
        return {**preprocessing.reference(arrays), "channel": np.array([b"E-1"], np.object_)}

    self_check(TritonPythonModel, __file__, preprocessing.example, expected)
