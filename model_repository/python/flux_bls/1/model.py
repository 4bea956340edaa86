"""Python-backend twin of `flux_schnell` and `flux_dev`: text to image through BLS.

Tokenises, makes the noise, and calls `clip_encoder_py` and `t5_encoder_py` side by side, then
`dit_transformer_py` once for each step, then `vae_decoder_py`. The tensors are those of the
native pipelines, so a client only changes the name. Here seed, height, width (and guidance) are
optional, and so is the number of `steps`.

One process works on many requests at a time: each is a coroutine, which waits for the models that
it calls while others go on. The config's parameter `variant` says what is served, schnell or dev.

Run this file for a self-check.
"""

from builder.families.flux import twins
from builder.families.flux.bls_pipeline import IMAGE, PROMPT, BlsPipeline, optional_inputs
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
        return python_twin.declare(
            auto_complete_model_config,
            [PROMPT],
            [IMAGE],
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
        """The images of one request."""
        return {IMAGE.name: await self.pipeline.paint(arrays, talk)}

    def finalize(self):
        """Called by the server when the model is unloaded."""
        self.tasks.close()
        self.pipeline.close()


if __name__ == "__main__":
    from builder.serving.self_check import self_check

    twins.check_pipeline(self_check, TritonPythonModel, __file__)
