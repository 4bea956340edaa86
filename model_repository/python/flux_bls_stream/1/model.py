"""`flux_bls` as a decoupled model: an image after each denoising step.

Each response has `image`, the number of the `step` (from 1) that it was made after, and whether it
is the `final` one. Before the last step the image is a preview: where the latents would end if the
rest of the way were as straight as that step. The last response is what `flux_bls` answers.
Decoupled models are asked over a gRPC stream.

Run this file for a self-check.
"""

import numpy as np

from builder.families.flux import twins
from builder.families.flux.bls_pipeline import (
    FINAL,
    IMAGE,
    PROMPT,
    STEP,
    BlsPipeline,
    optional_inputs,
)
from builder.families.flux.models.pipelines import MAX_BATCH_SIZE
from builder.serving import python_twin
from builder.serving.twin_tasks import RequestTasks

try:
    import triton_python_backend_utils as pb_utils
except ModuleNotFoundError:  # run directly, not by the server
    from builder.serving import pb_stand_in as pb_utils


class TritonPythonModel:
    """The model as the python backend wants it."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        """Declare the tensors; only FLUX.1 dev takes guidance."""
        config = auto_complete_model_config.as_dict()
        variant = twins.find_variant(python_twin.config_parameter(config, "variant", ""))
        auto_complete_model_config.set_model_transaction_policy({"decoupled": True})
        return python_twin.declare(
            auto_complete_model_config,
            [PROMPT],
            [IMAGE, STEP, FINAL],
            optional=optional_inputs(variant),
            max_batch_size=MAX_BATCH_SIZE,
        )

    def initialize(self, args):
        """Load the tokenizers."""
        variant = twins.find_variant(python_twin.parameter(args, "variant", ""))
        self.pipeline = BlsPipeline(pb_utils, variant)
        self.tasks = RequestTasks(
            pb_utils,
            self.paint,
            [PROMPT],
            optional=optional_inputs(variant),
            limit=python_twin.number(args, "concurrency", 16),
        )

    def execute(self, requests):
        """Begin with a batch of requests; each is answered when its images are done."""
        self.tasks.start(requests)

    async def paint(self, arrays, talk):
        """The images of one request; those before the last step are sent at once."""

        def outputs(step, image, final):
            count = len(image)
            return {
                IMAGE.name: image,
                STEP.name: np.full((count, 1), step, np.int64),
                FINAL.name: np.full((count, 1), final, bool),
            }

        def preview(step, image):
            talk.send(outputs(step, image, final=False))

        image = await self.pipeline.paint(arrays, talk, preview)
        return outputs(self.pipeline.order(arrays).steps, image, final=True)

    def finalize(self):
        """Called by the server when the model is unloaded."""
        self.tasks.close()
        self.pipeline.close()


if __name__ == "__main__":
    from builder.serving.self_check import self_check

    twins.check_pipeline(self_check, TritonPythonModel, __file__, streamed=True)
