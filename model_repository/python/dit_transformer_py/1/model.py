"""Python-backend twin of `dit_step` and `dit_step_dev`: one denoising step in PyTorch.

Every sample of a batch may be at a step of its own, as in the native model. A request that sends
`guidance` is answered by the transformer of FLUX.1 dev, any other by that of schnell; a configured
checkpoint is one of the two, the tiny random ones are both. The weights are those that the native
models are built from, see `builder.families.flux.twins`.

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
        """Declare the tensors; their widths come from the checkpoint."""
        stage, inputs, optional = twins.dit_tensors(twins.dit_steps())
        return python_twin.declare(
            auto_complete_model_config,
            inputs,
            stage.outputs,
            optional=optional,
            max_batch_size=stage.max_batch_size,
        )

    def initialize(self, args):
        """Load the weights."""
        self.stages = twins.dit_steps()
        stage, self.inputs, self.optional = twins.dit_tensors(self.stages)
        self.check = partial(twins.check_step, stage)
        twins.use_threads(args, stage)
        self.device = python_twin.device(args)
        self.networks = twins.transformers(self.device)

    def execute(self, requests):
        """Answer a batch of requests."""
        return python_twin.answer(
            pb_utils,
            requests,
            self.compute,
            self.inputs,
            optional=self.optional,
            check=self.check,
        )

    def compute(self, batch, stop_if_abandoned):
        """Run the requests of one shape together, at whatever steps they are."""
        stop_if_abandoned()
        return python_twin.joined(batch, self.run)

    def run(self, arrays):
        """One step of samples that all are of the same variant."""
        guided = twins.GUIDANCE in arrays
        return twins.run(self.networks[guided], self.stages[guided], self.device, arrays)

    def finalize(self):
        """Called by the server when the model is unloaded: let go of the weights."""
        self.networks = {}


if __name__ == "__main__":
    from builder.serving.self_check import self_check

    for stage in twins.dit_steps().values():
        self_check(
            TritonPythonModel,
            __file__,
            stage.example,
            twins.expected(stage),
            shapes=stage.shapes,
            atol=stage.tolerance.atol,
        )
