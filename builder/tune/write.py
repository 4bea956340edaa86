"""Writing settings into builder.toml; whatever else stands there stays as it is."""

import fnmatch
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder.errors import ConfigError
from builder.files import write_atomic
from builder.tune.space import TUNED

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

_MARK = "builder tune"


def check_writable(path: Path, stages: Iterable[str]) -> None:
    """Find out before a long search whether its result could be written, and would count.

    Args:
        path: The file; it need not be there.
        stages: Names of the stages that may get settings.

    Raises:
        ConfigError: The file cannot be written, is invalid, or sets the same settings of a stage
            by a pattern that comes after its own table.
    """
    target = path.resolve()
    text = _read(target)
    folder = target.parent
    if (target.exists() and not os.access(target, os.W_OK)) or not os.access(folder, os.W_OK):
        raise ConfigError("cannot be written", where=path, hint="check its owner, or use --dry-run")
    _check_order(text, stages, path)


def write_settings(
    path: Path, settings: Mapping[str, Mapping[str, object]], remark: str = ""
) -> None:
    """Set settings of stages, atomically. Comments, order and formatting survive.

    Args:
        path: The file; it is made if it is not there.
        settings: Stage -> setting -> value.
        remark: Stands behind each line, unless the user has written something there.

    Raises:
        ConfigError: The file is invalid, or has a table that cannot be edited.
        RepositoryError: It cannot be written; it is untouched then.
    """
    target = path.resolve()  # a link stays a link
    before = _read(target)  # it may have been edited since the search began
    _check_order(before, settings, path)
    text = changed_text(before, settings, remark, where=path)
    mode = target.stat().st_mode & 0o777 if target.exists() else None
    write_atomic(target, text.encode("utf-8"))
    if mode is not None:
        target.chmod(mode)


def changed_text(
    text: str,
    settings: Mapping[str, Mapping[str, object]],
    remark: str = "",
    *,
    where: str | Path = "builder.toml",
) -> str:
    """The text of builder.toml with the settings in it.

    Raises:
        ConfigError: It is no TOML, or has no place for them.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        for stage, values in settings.items():
            _set(document, stage, values, remark)
        changed = tomlkit.dumps(document)
        expected = tomllib.loads(text)
        for stage, values in settings.items():
            expected.setdefault("stages", {}).setdefault(stage, {}).update(values)
        found = tomllib.loads(changed)
    except (TOMLKitError, tomllib.TOMLDecodeError, TypeError, AttributeError) as error:
        raise ConfigError(f"cannot be edited: {error}", where=where) from error
    if found != expected:
        raise ConfigError(
            "cannot be edited without changing something else",
            where=where,
            hint='write [stages."NAME"] tables in the usual way, or set the values by hand',
        )
    return changed


def _check_order(text: str, stages: Iterable[str], where: Path) -> None:
    """Check that the table of a stage is not overruled by a pattern below it."""
    tables = tomllib.loads(text).get("stages", {})
    for name in stages:
        if name not in tables:
            continue  # its table will be the last one
        for pattern in list(tables)[list(tables).index(name) + 1 :]:
            clash = sorted(set(tables[pattern]) & set(TUNED))
            if clash and fnmatch.fnmatchcase(name, pattern):
                raise ConfigError(
                    f'[stages."{pattern}"] comes after [stages."{name}"] and sets {clash[0]}, too',
                    where=where,
                    hint=f'move [stages."{name}"] below it: the last match counts',
                )


def _set(document: "TOMLDocument", stage: str, values: Mapping[str, object], remark: str) -> None:
    import tomlkit
    from tomlkit.items import InlineTable

    if "stages" not in document:
        document["stages"] = tomlkit.table(is_super_table=True)
    stages: Any = document["stages"]
    if stage not in stages:
        inside = isinstance(stages, InlineTable)
        stages[stage] = tomlkit.inline_table() if inside else tomlkit.table()
    table = stages[stage]
    for key, value in values.items():
        item = tomlkit.item(value)
        there = table.value.item(key).trivia.comment if key in table else ""
        # In an inline table a comment would swallow the rest of it.
        if remark and not isinstance(table, InlineTable) and (not there or _MARK in there):
            item.comment(f"{_MARK}: {remark}")
        table[key] = item


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            text = file.read()
        tomllib.loads(text)
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=path) from error
    return text
