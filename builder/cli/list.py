"""`builder list`: the stages and pipelines that there are."""

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from builder.config import Config
from builder.engines.engine import engine_kind
from builder.family import Registry
from builder.repository.publish import published


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.pass_obj
def command(config: Config, as_json: bool) -> None:
    """List the stages and pipelines of all families, and the versions that are published."""
    registry = Registry.load(config)
    present: dict[str, list[int]] = {m.name: list(m.versions) for m in published(config.repository)}
    rows: list[dict[str, Any]] = []
    for stage in registry.stages.values():
        for kind in map(engine_kind, stage.engines):
            name = kind.model_name(stage)
            rows.append(
                {
                    "name": name,
                    "kind": kind.name,
                    "family": stage.family,
                    "inputs": [str(tensor) for tensor in stage.inputs],
                    "outputs": [str(tensor) for tensor in stage.outputs],
                    "metadata": dict(stage.metadata),
                    "versions": present.get(name, []),
                }
            )
    rows += [
        {
            "name": pipeline.name,
            "kind": "ensemble",
            "family": pipeline.family,
            "inputs": [str(tensor) for tensor in pipeline.inputs],
            "outputs": [str(tensor) for tensor in pipeline.outputs],
            "steps": [step.model for step in pipeline.steps],
            "description": pipeline.description,
            "metadata": dict(pipeline.metadata),
            "versions": present.get(pipeline.name, []),
        }
        for pipeline in registry.pipelines.values()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "kind", "family", "versions"):
        table.add_column(column, no_wrap=True)
    table.add_column("signature")
    for row in rows:
        table.add_row(
            row["name"],
            row["kind"],
            row["family"],
            ", ".join(map(str, row["versions"])) or "not built",
            f"{'; '.join(row['inputs'])} → {'; '.join(row['outputs'])}",
        )
    Console().print(table)
