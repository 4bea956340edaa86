"""A model needs a version folder, and the policy may only name versions that are there.

Ensembles need one, too, although it holds nothing; git and buckets drop empty folders, so a
repository that worked where it was made stops working where it was copied to. Triton takes only
numbers without leading zero for versions. Of the versions that a policy names it serves those
that are there, and does not tell of the others.
"""

from collections.abc import Iterator

from builder.lint.model import Context, Hit, Rule, Severity


def check(context: Context) -> Iterator[Hit]:
    """Yield models without version, and versions that are asked for but missing."""
    for model in context.models:
        if not model.versions:
            yield Hit(
                model.folder, "there is no version folder", "put the model file into a folder `1`"
            )
            continue
        for file, config in model.parsed:
            for version in config.version_policy.specific.versions:
                if version not in model.versions:
                    yield Hit(
                        file.path,
                        f"the version policy names version {version}, which is not there "
                        f"(available: {', '.join(map(str, model.versions))})",
                        "name one that is, or build that version",
                        file.line("version_policy"),
                    )


RULE = Rule("TR003", "no version, or a missing one is asked for", Severity.ERROR, check)
