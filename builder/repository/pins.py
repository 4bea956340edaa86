"""Pins: a version that a rollback has chosen, and that stays chosen when the model is rebuilt.

`<model>/publication.json` remembers the pinned version and the version policies that its configs
would have without the pin:

    {"pinned": 1, "policies": {"config.pbtxt": "latest:1"}}
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from builder.repository.staging import write_new

NAME = "publication.json"

_BLOCK = re.compile(r"^version_policy\s*:?\s*\{(?:[^{}]|\{[^{}]*\})*\}[^\S\n]*\n?", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Pin:
    """A pinned version and the policies that it covers, by path of the config."""

    version: int
    policies: dict[str, str]


def read_pin(folder: Path) -> Pin | None:
    """The pin of the model in a folder; None if there is none, or it cannot be read."""
    try:
        value = json.loads((folder / NAME).read_text(encoding="utf-8"))
        return Pin(int(value["pinned"]), dict(value["policies"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def pin(folder: Path, version: int) -> None:
    """Make the configs of a staged tree serve one version only.

    Raises:
        RepositoryError: A config cannot be parsed.
        OSError: It cannot be written.
    """
    before = read_pin(folder)
    policies = dict(before.policies) if before else {}
    chosen = f"specific:{version}"
    old = f"specific:{before.version}" if before else None
    for path in _configs(folder):
        name = str(path.relative_to(folder))
        policy = _policy(path)
        if policy != old or name not in policies:
            policies[name] = policy
        _set_policy(path, chosen)
    content = {"pinned": version, "policies": policies}
    write_new(folder / NAME, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def unpin(folder: Path) -> None:
    """Give the configs of a staged tree back the policies that the pin covers.

    Raises:
        RepositoryError: A config cannot be parsed.
        OSError: It cannot be written.
    """
    before = read_pin(folder)
    for path in _configs(folder) if before else []:
        assert before is not None
        policy = before.policies.get(str(path.relative_to(folder)))
        if policy is not None and _policy(path) == f"specific:{before.version}":
            _set_policy(path, policy)
    (folder / NAME).unlink(missing_ok=True)


def _configs(folder: Path) -> list[Path]:
    main = folder / "config.pbtxt"
    return [p for p in (main, *sorted((folder / "configs").glob("*.pbtxt"))) if p.is_file()]


def _policy(path: Path) -> str:
    from builder.repository.model_config import policy_text, read_config

    return policy_text(read_config(path))


def _set_policy(path: Path, policy: str) -> None:
    """Replace the version policy and leave the rest of the text, comments included, alone."""
    from google.protobuf import text_format

    from builder.repository.model_config import config_text, parse_config, parse_policy, read_config

    text = path.read_text(encoding="utf-8")
    wanted = read_config(path)
    wanted.version_policy.CopyFrom(parse_policy(policy))
    block = text_format.MessageToString(type(wanted)(version_policy=wanted.version_policy))
    edited, count = _BLOCK.subn(block, text, count=1)
    if count == 0:
        edited = text.rstrip("\n") + "\n" + block
    if parse_config(edited, path) != wanted:  # the text was laid out in a way not foreseen here
        edited = config_text(wanted)
    write_new(path, edited.encode())
