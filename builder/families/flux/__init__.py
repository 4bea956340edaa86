"""FLUX.1: text to image, with every denoising step a request of its own to one model."""

from builder.family import Family

FAMILY = Family(
    name="flux",
    title="FLUX.1: text to image as one native ensemble",
    commands={
        "generate": "builder.families.flux.generate:generate_command",
        "export flux": "builder.families.flux.export_command:export_command",
        "pipeline flux": "builder.families.flux.commands:pipeline_command",
    },
)
