"""File names in a config must stay inside the version folder.

Triton joins `default_model_filename` and the values of `cc_model_filenames` to the path of the
version without looking at them, so `../../other/1/model.plan` loads what it names.
"""

from collections.abc import Iterator

from builder.lint.model import Context, Hit, Rule, Severity


def check(context: Context) -> Iterator[Hit]:
    """Yield file names with separators or `..`."""
    for model in context.models:
        for file, config in model.parsed:
            names = dict.fromkeys(config.cc_model_filenames.values(), "cc_model_filenames")
            names |= {config.default_model_filename: "default_model_filename"}
            for name, setting in names.items():
                if "/" in name or "\\" in name or ".." in name or "\0" in name:
                    yield Hit(
                        file.path,
                        f"{setting} names {name!r}, which may lead out of the version folder",
                        "name a file of the version folder, without separators and '..'",
                        file.line(setting),
                    )


RULE = Rule("TR005", "file name leads out of the version folder", Severity.ERROR, check)
