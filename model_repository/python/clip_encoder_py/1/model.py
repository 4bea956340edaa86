"""Python-backend twin of `clip_encoder`: CLIP's text encoder in PyTorch.

The weights are those that the native model is built from, see `builder.families.flux.twins`.

Run this file for a self-check.
"""

from functools import partial

from builder.families.flux import twins
from builder.serving import python_twin

try:
    import triton_python_backend_utils as pb_utils
except ModuleNotFoundError:  # run directly, not by the server
    from builder.serving import pb_stand_in as pb_utils


class TritonPythonModel:
    """The model as the python backend wants it."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        """Declare the tensors; widths come from the checkpoint."""
        stage = twins.clip_encoder()
        return python_twin.declare(
            auto_complete_model_config,
            stage.inputs,
            stage.outputs,
            max_batch_size=stage.max_batch_size,
        )

    def initialize(self, args):
        """Load the weights."""
        from builder.families.flux.networks.text_encoders import ClipEncoder

        self.stage = twins.clip_encoder()
        twins.use_threads(args, self.stage)
        self.device = python_twin.device(args)
        self.check = partial(twins.check_tokens, twins.vocabulary("text_encoder"))
        self.network = twins.network("text_encoder", ClipEncoder, self.device, self.stage)

    def execute(self, requests):
        """Answer a batch of requests."""
        return python_twin.answer(
            pb_utils, requests, self.compute, self.stage.inputs, check=self.check
        )

    def compute(self, batch, stop_if_abandoned):
        """Run the requests of one shape together."""
        stop_if_abandoned()
        run = partial(twins.run, self.network, self.stage, self.device)
        return python_twin.joined(batch, run)

    def finalize(self):
        """Called by the server when the model is unloaded: let go of the weights."""
        self.network = None


if __name__ == "__main__":
    from builder.serving.self_check import self_check

    stage = twins.clip_encoder()
    self_check(
        TritonPythonModel,
        __file__,
        stage.example,
        twins.expected(stage),
        shapes=stage.shapes,
        atol=stage.tolerance.atol,
        levels=stage.tolerance.levels,
    )
