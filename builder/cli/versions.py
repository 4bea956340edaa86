"""`builder versions`: the versions of a model."""

import json
from dataclasses import asdict
from datetime import UTC, datetime

import click

from builder.config import Config, load_config


@click.command("versions")
@click.argument("model")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(context: click.Context, model: str, as_json: bool) -> None:
    """List the versions of MODEL, newest first, and say which one is served.

    MODEL may be written GROUP/MODEL.
    """
    from builder.repository.versions import find_model, list_versions

    config = context.find_object(Config) or load_config()
    found = find_model(config.repository, model)
    infos = list_versions(found)
    if as_json:
        value = {
            "model": found.name,
            "group": found.group,
            "pinned": found.pinned,
            "versions": [asdict(info) for info in infos],
        }
        click.echo(json.dumps(value, indent=2))
        return
    for info in infos:
        state = "pinned" if info.pinned else "served" if info.served else ""
        when = datetime.fromtimestamp(info.modified, UTC).strftime("%Y-%m-%d %H:%M UTC")
        click.echo(f"{info.version:>6}  {when}  {info.size / 1e6:>9.2f} MB  {state}".rstrip())
    if not infos:
        click.echo(f"{found.name} has no versions")
