"""Python-backend twin of `tranad_sat1`: TranAD in PyTorch.

The weights are those that the native model is built from: `[anomaly] weights` (or
`tranad_checkpoint`) in the builder.toml of the folder that the server was started in, or the
variable BUILDER_ANOMALY_WEIGHTS, or else the ones that are shipped with the builder.

Run this file for a self-check.
"""

import torch

from builder.config import load_config
from builder.families.anomaly.models import tranad
from builder.families.anomaly.models.detector import INPUTS, OUTPUTS
from builder.families.anomaly.models.postprocessing import detectors
from builder.families.anomaly.networks import reference
from builder.serving import python_twin

try:
    import triton_python_backend_utils as pb_utils
except ModuleNotFoundError:  # run directly, not by the server
    from builder.serving import pb_stand_in as pb_utils

CHUNK = 4096
"""Windows that are run at once: enough to keep the processor busy, and at about 20 kB each they
stay far from filling the memory, however long the telemetry of a request is."""


class TritonPythonModel:
    """The model as the python backend wants it."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        """Declare the tensors."""
        return python_twin.declare(auto_complete_model_config, INPUTS, OUTPUTS)

    def initialize(self, args):
        """Load the weights."""
        python_twin.use_threads(args)
        self.detector = reference.load(detectors(load_config())[tranad.NAME])

    def execute(self, requests):
        """Answer a batch of requests."""
        return python_twin.answer(pb_utils, requests, self.compute, INPUTS)

    def compute(self, batch, stop_if_abandoned):
        """Run the windows of all requests together, in chunks that a cancellation can stop."""
        detector = self.detector
        with torch.inference_mode():
            normaliser = detector.normaliser
            inputs = [normaliser(torch.from_numpy(a["input_data"])) for a in batch]
            seen = [normaliser.for_network(normal) for normal, _ in inputs]
            # Windows are [10,T,25]; which request one belongs to does not matter to the network.
            windows = torch.cat([detector.windows(normal) for normal in seen], dim=1)
            parts = []
            for chunk in windows.split(CHUNK, dim=1):
                stop_if_abandoned()
                parts.append(detector.phases(chunk)[1].squeeze(0))
            reconstructions = torch.cat(parts).split([len(normal) for normal, _ in inputs])
            answers = []
            for (normal, finite), reconstruction in zip(inputs, reconstructions, strict=True):
                outputs = detector.judge(normal, finite, reconstruction)
                answers.append(python_twin.named(OUTPUTS, outputs))
        return answers

    def finalize(self):
        """Called by the server when the model is unloaded: let go of the weights."""
        self.detector = None


if __name__ == "__main__":
    from builder.families.anomaly.models.detector import telemetry_example
    from builder.serving.self_check import self_check

    def expected(arrays):
        """What the module says about one request at a time."""
        return reference.answer(detectors(load_config())[tranad.NAME], arrays["input_data"])

    self_check(TritonPythonModel, __file__, telemetry_example, expected)
