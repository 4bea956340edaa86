"""`builder config`: every setting, its value and what it is for."""

import dataclasses
import json
from typing import Any

import click

from builder.config import CORE_SECTIONS, Config
from builder.engines.trt.options import TensorRTOptions


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the values as JSON.")
@click.pass_obj
def command(config: Config, as_json: bool) -> None:
    """Print the configuration in force, as a builder.toml with comments."""
    sections: dict[str, Any] = {name: getattr(config, name) for name in CORE_SECTIONS}
    sections['stages."*"'] = config.stage_options("*")
    sections['tensorrt."*"'] = config.matching("tensorrt", "*", TensorRTOptions)
    if as_json:
        values = {name: dataclasses.asdict(section) for name, section in sections.items()}
        click.echo(json.dumps(values, indent=1, default=str))
        return
    for name, section in sections.items():
        click.echo(f"[{name}]")
        for field in dataclasses.fields(section):
            value = getattr(section, field.name)
            text = "# unset" if value is None else _toml(value)
            click.echo(f"{field.name} = {text}".ljust(34) + f"  # {field.metadata['doc']}")
        click.echo()


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(str(value))
