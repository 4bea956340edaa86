"""Every version must hold the file that the backend loads.

Which one that is depends on the backend, on `default_model_filename` and, per compute
capability, on `cc_model_filenames`. A file that is missing for one capability only shows when
the repository meets such a GPU.
"""

from collections.abc import Iterator

from builder.lint.model import Context, Hit, Rule, Severity, backend_of

# What each backend loads where the config names no file.
_DEFAULTS = {
    "onnxruntime": ("model.onnx",),
    "tensorrt": ("model.plan",),
    "pytorch": ("model.pt", "model.pt2"),
    "python": ("model.py",),
    "openvino": ("model.xml",),
    "tensorflow": ("model.savedmodel", "model.graphdef"),
}


def check(context: Context) -> Iterator[Hit]:
    """Yield versions in which a file is missing."""
    for model in context.models:
        for file, config in model.parsed:
            named = [(name, "cc_model_filenames") for name in config.cc_model_filenames.values()]
            if config.default_model_filename:
                named.append((config.default_model_filename, "default_model_filename"))
            defaults = () if named else _DEFAULTS.get(backend_of(config), ())
            for folder in model.version_folders():
                for name, setting in named:
                    if not (folder / name).exists():
                        yield Hit(
                            file.path,
                            f"version {folder.name} has no {name}, which {setting} names",
                            "build that file, or take its name out of the config",
                            file.line(name) or file.line(setting),
                        )
                if defaults and not any((folder / name).exists() for name in defaults):
                    yield Hit(
                        folder,
                        f"there is no {' or '.join(defaults)}",
                        "build it, or name the right file in default_model_filename",
                    )


RULE = Rule("TR004", "model file is missing", Severity.ERROR, check)
