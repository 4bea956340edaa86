"""Exporting a stage, as an action."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from builder.build.action import Action
from builder.export.exporter import export_ingredients
from builder.record import Record
from builder.stage import Stage

if TYPE_CHECKING:
    from builder.build.plan import Context


def plan(context: "Context", stage: Stage) -> Action:
    """`exports/<family>/<stage>/`."""
    folder = export_folder(context.config.exports, stage)

    def make(made_from: Mapping[str, str]) -> Record:
        return context.exporter.export(stage, folder, made_from, context.progress)

    return Action(
        artefact="export",
        model=stage.name,
        folder=folder,
        ingredients=lambda: export_ingredients(
            stage, context.digests, context.exporter.stream_from
        ),
        make=make,
    )


def export_folder(exports: Path, stage: Stage) -> Path:
    """Where the export of a stage is kept."""
    return exports / stage.family / stage.name
