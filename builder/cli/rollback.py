"""`builder rollback`: serve an older version of a model."""

import click

from builder.config import Config, load_config
from builder.errors import UsageError


@click.command("rollback")
@click.argument("model")
@click.option("--to", type=click.IntRange(min=1), help="Version to serve.  [default: the last one]")
@click.option("--undo", is_flag=True, help="Serve again what the version policy says.")
@click.pass_context
def command(context: click.Context, model: str, to: int | None, undo: bool) -> None:
    """Serve an older version of MODEL; all versions stay on the disk.

    The version stays pinned when the model is built again, until --undo or `builder build
    --as-version`. MODEL may be written GROUP/MODEL.
    """
    from builder.repository.versions import rollback, undo_rollback

    config = context.find_object(Config) or load_config()
    if undo and to is not None:
        raise UsageError("--to and --undo exclude each other")
    if undo:
        served = undo_rollback(config.repository, model)
        click.echo(f"{model}: serves version {', '.join(map(str, served)) or 'none'} again")
    else:
        click.echo(f"{model}: pinned to version {rollback(config.repository, model, to)}")
    click.echo("A server that polls takes this up by itself; any other needs a restart or reload.")
