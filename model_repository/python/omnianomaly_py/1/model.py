"""Python-backend twin of the `SMAP_*` models: OmniAnomaly in PyTorch.

Which channel's weights are used says the optional input `channel`, such as `E-1`, or else the
config's parameter `channel`. The weights are those that the native models are built from:
`[anomaly] weights` in the builder.toml of the folder that the server was started in, or the
variable BUILDER_ANOMALY_WEIGHTS, or else the ones that are shipped with the builder.

Run this file for a self-check.
"""

from collections import defaultdict

import torch

from builder.config import load_config
from builder.families.anomaly.channels import find_channel
from builder.families.anomaly.models.detector import INPUTS, OUTPUTS
from builder.families.anomaly.models.postprocessing import detectors
from builder.families.anomaly.networks import reference
from builder.serving import python_twin
from builder.stage import Tensor

try:
    import triton_python_backend_utils as pb_utils
except ModuleNotFoundError:  # run directly, not by the server
    from builder.serving import pb_stand_in as pb_utils

CHANNEL = Tensor("channel", "BYTES", (1,))


class TritonPythonModel:
    """The model as the python backend wants it."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        """Declare the tensors."""
        return python_twin.declare(auto_complete_model_config, INPUTS, OUTPUTS, optional=(CHANNEL,))

    def initialize(self, args):
        """Load the weights of the channel that is asked for by default."""
        python_twin.use_threads(args)
        self.stages = detectors(load_config())
        self.modules = {}
        self.default = find_channel(python_twin.parameter(args, "channel", "A-1"))
        self.module(self.default)

    def execute(self, requests):
        """Answer a batch of requests."""
        return python_twin.answer(pb_utils, requests, self.compute, INPUTS, optional=(CHANNEL,))

    def compute(self, batch, stop_if_abandoned):
        """Run requests for one channel and of one length together."""
        together = defaultdict(list)
        for index, arrays in enumerate(batch):
            channel = self.channel(arrays)
            together[channel, len(arrays["input_data"])].append(index)
        answers = [None] * len(batch)
        for (channel, _), indices in together.items():
            stop_if_abandoned()
            windows = [torch.from_numpy(batch[i]["input_data"]) for i in indices]
            with torch.inference_mode():
                for i, outputs in zip(indices, forward(self.module(channel), windows), strict=True):
                    answers[i] = python_twin.named(OUTPUTS, outputs)
        return answers

    def channel(self, arrays):
        """The channel that a request is about; UsageError if there is none of that name."""
        if "channel" not in arrays:
            return self.default
        return find_channel(arrays["channel"][0].decode(errors="replace"))

    def module(self, channel):
        """The detector of a channel, loaded when it is first asked for."""
        if channel not in self.modules:
            self.modules[channel] = reference.load(self.stages[channel.model])
        return self.modules[channel]

    def finalize(self):
        """Called by the server when the model is unloaded: let go of the weights."""
        self.modules.clear()


def forward(module, windows):
    """`OmniAnomaly.forward` for several FP32 [T,25] of equal T, the network run only once."""
    inputs = [module.normaliser(window) for window in windows]
    seen = [module.normaliser.for_network(normal) for normal, _ in inputs]
    mean, _ = module.posterior(torch.stack(seen, dim=1))
    reconstructions = module.decoder(mean).unbind(dim=1)
    for (normal, finite), reconstruction in zip(inputs, reconstructions, strict=True):
        yield module.judge(normal, finite, reconstruction)


if __name__ == "__main__":
    from builder.families.anomaly.models.detector import telemetry_example
    from builder.serving.self_check import self_check

    def expected(arrays):
        """What the module says about one window at a time."""
        return reference.answer(detectors(load_config())["SMAP_A-1"], arrays["input_data"])

    self_check(TritonPythonModel, __file__, telemetry_example, expected)
