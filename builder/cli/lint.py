"""`builder lint`: look for mistakes in Triton repositories before a server does."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from builder.config import Config, load_config
from builder.lint import Finding, Severity, all_rules, lint
from builder.lint.runner import explain


def _codes(context: click.Context, option: click.Parameter, values: Sequence[str]) -> list[str]:
    return [code.strip().upper() for value in values for code in value.split(",") if code.strip()]


@click.command("lint")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option("--select", multiple=True, callback=_codes, help="Codes of the rules to run.")
@click.option("--ignore", multiple=True, callback=_codes, help="Codes of rules not to run.")
@click.option("--strict", is_flag=True, help="Fail on warnings, too.")
@click.option("--list", "as_list", is_flag=True, help="Explain the rules instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(
    context: click.Context,
    paths: tuple[Path, ...],
    select: list[str],
    ignore: list[str],
    strict: bool,
    as_list: bool,
    as_json: bool,
) -> None:
    """Check Triton model repositories, hand-written ones included.

    Each PATH is a model, a repository or a folder of repositories; by default, the one that
    `builder build` writes. Exits with 1 if there are errors.
    """
    if as_list:
        _print_rules(as_json)
        return
    if not paths:
        paths = ((context.find_object(Config) or load_config()).repository,)
    findings = lint(paths, select or None, ignore)
    _print_findings(findings, as_json)
    if any(strict or f.severity is Severity.ERROR for f in findings):
        context.exit(1)


def _print_rules(as_json: bool) -> None:
    rules = all_rules()
    if as_json:
        keys = ("code", "severity", "title")
        value = [{**{k: getattr(r, k) for k in keys}, "why": explain(r)} for r in rules]
        click.echo(json.dumps(value, indent=2))
        return
    for rule in rules:
        click.echo(f"{rule.code} {rule.title} ({rule.severity})")
        click.echo("\n".join(f"    {line}".rstrip() for line in explain(rule).splitlines()) + "\n")


def _print_findings(findings: Sequence[Finding], as_json: bool) -> None:
    if as_json:
        value = [{**asdict(f), "path": str(f.path), "line": f.line or None} for f in findings]
        click.echo(json.dumps(value, indent=2))
        return
    for finding in findings:
        click.echo(str(finding))
    count = Counter(f.severity for f in findings)
    words = [f"{count[s]} {s}{'' if count[s] == 1 else 's'}" for s in Severity if count[s]]
    click.echo(", ".join(words) or "no findings")
