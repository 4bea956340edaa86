"""`builder lint`: look for mistakes in Triton repositories before a server does."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from builder.config import Config, load_config
from builder.lint import Finding, Rule, Severity, all_rules, lint
from builder.lint.runner import explain
from builder.lint.tensorrt.model import OnnxFinding, OnnxRule


def _codes(context: click.Context, option: click.Parameter, values: Sequence[str]) -> list[str]:
    return [code.strip().upper() for value in values for code in value.split(",") if code.strip()]


@click.command("lint")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option("--select", multiple=True, callback=_codes, help="Codes of the rules to run.")
@click.option("--ignore", multiple=True, callback=_codes, help="Codes of rules not to run.")
@click.option("--strict", is_flag=True, help="Fail on warnings, too.")
@click.option(
    "--tensorrt",
    is_flag=True,
    help="Check ONNX files instead (by default the exports): what TensorRT would not take.",
)
@click.option("--list", "as_list", is_flag=True, help="Explain the rules instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(
    context: click.Context,
    paths: tuple[Path, ...],
    select: list[str],
    ignore: list[str],
    strict: bool,
    tensorrt: bool,
    as_list: bool,
    as_json: bool,
) -> None:
    """Check Triton model repositories, hand-written ones included.

    Each PATH is a model, a repository or a folder of repositories; by default, the one that
    `builder build` writes. Exits with 1 if there are errors.

    With --tensorrt each PATH is an ONNX file or a folder of them, and what is found are operators,
    data types and shapes that the ONNX parser of TensorRT does not take.
    """
    config = context.find_object(Config) or load_config()
    if tensorrt:
        from builder.lint.tensorrt.runner import lint_onnx, onnx_rules

        if as_list:
            _print_rules(onnx_rules(), as_json)
            return
        onnx_findings = lint_onnx(paths or (config.exports,), select or None, ignore)
        _print_findings(onnx_findings, as_json)
        if any(strict or f.severity is Severity.ERROR for f in onnx_findings):
            context.exit(1)
        return
    if as_list:
        _print_rules(all_rules(), as_json)
        return
    findings = lint(paths or (config.repository,), select or None, ignore)
    _print_findings(findings, as_json)
    if any(strict or f.severity is Severity.ERROR for f in findings):
        context.exit(1)


def _print_rules(rules: Sequence[Rule | OnnxRule], as_json: bool) -> None:
    if as_json:
        keys = ("code", "severity", "title")
        value = [{**{k: getattr(r, k) for k in keys}, "why": explain(r)} for r in rules]
        click.echo(json.dumps(value, indent=2))
        return
    for rule in rules:
        click.echo(f"{rule.code} {rule.title} ({rule.severity})")
        click.echo("\n".join(f"    {line}".rstrip() for line in explain(rule).splitlines()) + "\n")


def _print_findings(findings: Sequence[Finding | OnnxFinding], as_json: bool) -> None:
    if as_json:
        value = [{**asdict(f), "path": str(f.path)} for f in findings]
        for entry in value:
            if "line" in entry:
                entry["line"] = entry["line"] or None
        click.echo(json.dumps(value, indent=2))
        return
    for finding in findings:
        click.echo(str(finding))
    count = Counter(f.severity for f in findings)
    words = [f"{count[s]} {s}{'' if count[s] == 1 else 's'}" for s in Severity if count[s]]
    click.echo(", ".join(words) or "no findings")
