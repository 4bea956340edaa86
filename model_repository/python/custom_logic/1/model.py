"""Python-backend twin of `subsystem_vote_onnx`: the business rule of a subsystem.

The detectors' thresholds come from the weights that the native models are built from; see
`omnianomaly_py`.

Run this file for a self-check.
"""

import numpy as np
import torch

from builder.config import load_config
from builder.families.anomaly.models.postprocessing import subsystem_vote
from builder.families.anomaly.networks import reference
from builder.serving import python_twin

try:
    import triton_python_backend_utils as pb_utils
except ModuleNotFoundError:  # run directly, not by the server
    from builder.serving import pb_stand_in as pb_utils


class TritonPythonModel:
    """The model as the python backend wants it."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        """Declare the tensors."""
        stage = subsystem_vote(load_config())
        return python_twin.declare(auto_complete_model_config, stage.inputs, stage.outputs)

    def initialize(self, args):
        """Read the thresholds."""
        python_twin.use_threads(args)
        self.stage = subsystem_vote(load_config())
        self.module = reference.load(self.stage)

    def execute(self, requests):
        """Answer a batch of requests."""
        return python_twin.answer(pb_utils, requests, self.compute, self.stage.inputs)

    def compute(self, batch, stop_if_abandoned):
        """Join the samples of all requests, for each is judged by itself, and part them again."""
        stop_if_abandoned()
        lengths = [len(next(iter(arrays.values()))) for arrays in batch]
        joined = (
            torch.from_numpy(np.concatenate([arrays[tensor.name] for arrays in batch]))
            for tensor in self.stage.inputs
        )
        with torch.inference_mode():
            parted = [output.split(lengths) for output in self.module(*joined)]
        return [
            python_twin.named(self.stage.outputs, outputs) for outputs in zip(*parted, strict=True)
        ]

    def finalize(self):
        """Called by the server when the model is unloaded: let go of the module."""
        self.module = None


if __name__ == "__main__":
    from builder.serving.self_check import self_check

    stage = subsystem_vote(load_config())

    def expected(arrays):
        """The rule once more, in NumPy."""
        thresholds = reference.load(stage).relative.thresholds.numpy()
        values = [arrays[tensor.name] for tensor in stage.inputs]
        scores, flags = np.stack(values[0::2], axis=1), np.stack(values[1::2], axis=1)
        return {
            "anomaly_score": np.minimum((scores / thresholds).max(axis=1), 1000),
            "anomaly_detected": flags.any(axis=1),
            "votes": flags.sum(axis=1, dtype=np.int32),
            "detector_flags": flags,
        }

    self_check(TritonPythonModel, __file__, stage.example, expected)
