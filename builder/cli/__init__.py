"""The command line: thin click commands that parse, call and print.

Every module here that defines `command` is a subcommand of that name; families add their own
(see `Family.commands`). Modules are imported only when their command is used.
"""

import difflib
import importlib
import os
import pkgutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from builder import __version__
from builder.config import load_config
from builder.errors import BuilderError

OWN = ""
"""In a table of subcommands: the command itself, where families only add words to it."""


class LazyGroup(click.Group):
    """A group whose subcommands are imported when they are used.

    Args:
        commands_at: Name -> `module:object`, or for a nested group another such mapping.
    """

    def __init__(self, *args: Any, commands_at: Mapping[str, Any] | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.commands_at = dict(commands_at or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the subcommands."""
        return sorted(self.commands_at)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand; None if there is none of that name."""
        place = self.commands_at.get(cmd_name)
        if place is None:
            return None
        if not isinstance(place, str):
            if OWN in place:
                return ForkedCommand(cmd_name, place)
            verb = cmd_name.capitalize()
            return LazyGroup(cmd_name, commands_at=place, help=f"{verb}: one command per family.")
        module, _, attribute = place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand, or say which one may have been meant."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            close = difflib.get_close_matches(args[0], self.commands_at, n=1)
            if not close:
                raise
            raise click.UsageError(f"{error.message} Did you mean {close[0]!r}?", ctx) from error


class ForkedCommand(click.Command):
    """A command that goes on as another one if its first argument is a family's word.

    Args:
        places: Word -> `module:object`; `OWN` is the command itself.
    """

    def __init__(self, name: str, places: Mapping[str, str]):
        super().__init__(name)
        self.places = places

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        """The context of whichever command it is."""
        word = args[0] if args and args[0] in self.places else OWN
        module, _, attribute = self.places[word].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        rest = list(args[1:] if word else args)
        if not word:
            words = ", ".join(f"{info_name} {other}" for other in self.places if other)
            command.epilog = f"See also {words}."
        return command.make_context(f"{info_name} {word}".strip(), rest, parent, **extra)

    def get_short_help_str(self, limit: int = 45) -> str:
        """That of the command itself."""
        module, _, attribute = self.places[OWN].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command.get_short_help_str(limit)


def _commands() -> dict[str, Any]:
    places: dict[str, Any] = {
        info.name.replace("_", "-"): f"{__name__}.{info.name}:command"
        for info in pkgutil.iter_modules(__path__)
        if not info.name.startswith("_")
    }
    from builder.family import all_families

    for family in all_families():
        for words, place in family.commands.items():
            *groups, name = words.split()
            table = places
            for group in groups:
                inner = table.setdefault(group, {})
                if isinstance(inner, str):  # a command, which keeps its own arguments
                    inner = table[group] = {OWN: inner}
                table = inner
            table[name] = place
    return places


@click.group(
    cls=LazyGroup, commands_at=_commands(), context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="builder")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="Configuration file.  [default: builder.toml in this folder]",
)
@click.pass_context
def cli(ctx: click.Context, config_file: Path | None) -> None:
    """From PyTorch checkpoints to a Triton model repository of compiled engines."""
    ctx.obj = load_config(config_file)


def main() -> None:
    """Run the command line; the exit code is 0 (fine), 1 (failed, findings) or 2 (usage)."""
    try:
        status = cli.main(standalone_mode=False, prog_name="builder")
    except BuilderError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("interrupted; what was finished is kept", err=True)
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output went away, e.g. `builder list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("BUILDER_DEBUG"):
            raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        click.echo(
            f"error: {type(error).__name__}: {reason}\n"
            "  -> this is a bug: run the command again with BUILDER_DEBUG=1 for its traceback",
            err=True,
        )
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)
