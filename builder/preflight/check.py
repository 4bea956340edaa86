"""Comparing the plans of a repository with the server and the GPUs that are to load them.

refusals = check(repository, facts_of_release("26.07"), parse_gpus(["NVIDIA L4, 8.9"]))
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.digest import FileDigests
from builder.errors import BuilderError, from_os_error
from builder.preflight.facts import Gpu, ServerFacts
from builder.preflight.plan import (
    AMPERE_PLUS,
    PlanRecord,
    read_plan_record,
)
from builder.preflight.releases import same_tensorrt
from builder.preflight.sources import Sources
from builder.repository.names import unsafe
from builder.repository.plans import FALLBACK, GROUP
from builder.repository.publish import CONFIG, PublishedModel, versions
from builder.repository.versions import pinned_version, served_versions

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_ENTRIES = re.compile(r"cc_model_filenames\s*:?\s*(\[[^\]]*\]|\{[^}]*\})")
_KEY = re.compile(r"key\s*:\s*[\"']([^\"']*)[\"']")
_PROCESSORS = ("x86_64", "aarch64")


@dataclass(frozen=True, slots=True, order=True)
class Refusal:
    """Why a model must not be served.

    Attributes:
        model: Its name.
        reason: What is wrong, as a sentence without the final period.
        remedy: What to do about it.
    """

    model: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.model}: {self.reason}\n  -> {self.remedy}"

    def to_json(self) -> dict[str, str]:
        """For `builder doctor --json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Question:
    """One model, what it is compared with, and what is found out on the way."""

    model: PublishedModel
    config: "ModelConfig"
    text: str
    server: ServerFacts
    gpus: Sequence[Gpu] | None
    sources: Sources
    folders: Sequence[Path]
    digests: FileDigests

    @property
    def safe_files(self) -> dict[str, str]:
        """Compute capability -> plan, without names that lead elsewhere."""
        files = self.config.cc_model_filenames
        return {key: name for key, name in sorted(files.items()) if unsafe(name) is None}

    @property
    def wanted(self) -> dict[str, str]:
        """`safe_files` of the GPUs at hand; all of them where the GPUs are not known."""
        if self.gpus is None:
            return self.safe_files
        capabilities = {gpu.capability for gpu in self.gpus}
        return {key: name for key, name in self.safe_files.items() if key in capabilities}


def plan_models(repository: Path, names: Collection[str] | None = None) -> list[PublishedModel]:
    """The models with plans: those of the group `tensorrt`.

    Args:
        repository: Root of the model repository, or its folder `tensorrt`.
        names: Only models of these names.

    Raises:
        RepositoryError: The folder cannot be read.
    """
    group = repository / GROUP if (repository / GROUP).is_dir() else repository
    if not group.is_dir():
        return []
    try:
        folders = [f for f in sorted(group.iterdir()) if names is None or f.name in names]
        return [
            PublishedModel(group.name, f.name, versions(f), f / CONFIG, pinned_version(f))
            for f in folders
            if f.is_dir() and (versions(f) or (f / CONFIG).is_file())
        ]
    except OSError as error:
        raise from_os_error(error, "reading", error.filename or group) from error


def check(
    repository: Path,
    server: ServerFacts,
    gpus: Sequence[Gpu] | None,
    *,
    models: Collection[str] | None = None,
    sources: Sources | None = None,
    digests: FileDigests | None = None,
) -> list[Refusal]:
    """Every reason why a plan that would be served cannot be, or would not be the right one.

    Args:
        repository: Root of the model repository, or its folder `tensorrt`.
        server: The server that is to load the plans.
        gpus: The GPUs at hand; None where they are not known, which leaves out that question.
        models: Only models of these names.
        sources: What the plans should have been built from; by default the ONNX twins in the
            repository.
        digests: Digests of files that are known already.

    Returns:
        The refusals, by model.

    Raises:
        RepositoryError: The repository cannot be read.
    """
    sources = sources or Sources(repository)
    digests = digests or FileDigests()
    found: list[Refusal] = []
    for model in plan_models(repository, models):
        found += _check_model(model, server, gpus, sources, digests)
    return sorted(set(found))


def _check_model(
    model: PublishedModel,
    server: ServerFacts,
    gpus: Sequence[Gpu] | None,
    sources: Sources,
    digests: FileDigests,
) -> list[Refusal]:
    from builder.repository.model_config import parse_config

    try:
        text = model.config.read_text(encoding="utf-8", errors="replace")
        config = parse_config(text, model.config)
        numbers = served_versions(model)
    except OSError as error:
        reason = f"its {CONFIG} cannot be read: {error.strerror or error}"
        return [Refusal(model.name, reason, f"builder build {_stage(model)} writes it again")]
    except BuilderError as error:
        return [Refusal(model.name, f"{CONFIG} {error.what}", error.hint or "build it again")]
    if not _is_tensorrt(config):
        return []
    folders = [model.folder / str(number) for number in numbers]
    question = _Question(model, config, text, server, gpus, sources, folders, digests)
    return [Refusal(model.name, *answer) for check in _CHECKS for answer in check(question)]


def _is_tensorrt(config: "ModelConfig") -> bool:
    return bool(config.backend == "tensorrt" or config.platform == "tensorrt_plan")


def _stage(model: PublishedModel) -> str:
    return model.name.removesuffix("_trt")


def _build(model: PublishedModel, capability: str) -> str:
    return f"builder build {_stage(model)} --target sm{capability.replace('.', '')} on such a GPU"


Answer = tuple[str, str]


def _no_version(question: _Question) -> Iterator[Answer]:
    if not question.folders:
        yield (
            "there is no version that its policy would serve",
            f"builder build {_stage(question.model)}, or change version_policy",
        )


def _unsafe_names(question: _Question) -> Iterator[Answer]:
    names = dict.fromkeys(question.config.cc_model_filenames.values(), "cc_model_filenames")
    if default := question.config.default_model_filename:
        names.setdefault(default, "default_model_filename")
    for name, setting in sorted(names.items()):
        if problem := unsafe(name):
            yield (
                f"{setting} names {name!r}, which {problem}; Triton would open it unchecked",
                "name a file of the version folder, such as sm90.plan",
            )


def _keys(question: _Question) -> Iterator[Answer]:
    entries = _ENTRIES.findall(question.text)
    counts = Counter(key for entry in entries for key in _KEY.findall(entry))
    for key, count in sorted(counts.items()):
        if count > 1:
            yield (
                f"cc_model_filenames lists {key} {count} times, and the last one wins silently",
                "keep one plan for each compute capability",
            )
    for key in sorted(question.config.cc_model_filenames):
        if re.fullmatch(r"[0-9]{1,2}\.[0-9]", key) is None:
            yield (
                f"cc_model_filenames has the key {key!r}, which matches no GPU",
                "write a compute capability such as 9.0",
            )


def _fallback(question: _Question) -> Iterator[Answer]:
    """What Triton loads without a word on a GPU that is not listed."""
    default = question.config.default_model_filename
    if default:
        yield (
            f"default_model_filename is set: a GPU without a plan of its own loads {default}",
            "remove default_model_filename; cc_model_filenames names every plan",
        )
    for folder in question.folders:
        if (folder / FALLBACK).exists():
            yield (
                f"version {folder.name} holds a {FALLBACK}, which any GPU without a plan of its "
                "own loads silently",
                "rename it to sm90.plan or what fits, and list it in cc_model_filenames",
            )


def _gpu_without_plan(question: _Question) -> Iterator[Answer]:
    if question.gpus is None:
        return
    if not question.gpus:
        yield (
            "there is no NVIDIA GPU here",
            "serve the ONNX twin on the CPU, or serve this repository on a machine with a GPU",
        )
    listed = question.config.cc_model_filenames
    have = ", ".join(sorted(listed)) or "none"
    for gpu in dict.fromkeys(question.gpus):
        if gpu.capability not in listed:
            yield (
                f"there is no plan for {gpu} (there are: {have}); Triton would not say so, "
                f"but look for {question.config.default_model_filename or FALLBACK}",
                _build(question.model, gpu.capability),
            )


def _plans(question: _Question) -> Iterator[Answer]:
    """Every question about one plan."""
    for capability, name in question.wanted.items():
        for folder in question.folders:
            plan = folder / name
            where = f"{folder.name}/{name}"
            again = _build(question.model, capability)
            if not plan.is_file():
                yield f"{where}, the plan for {capability}, is missing", again
                continue
            record = read_plan_record(plan)
            if record is None:
                yield (
                    f"{where} has no readable record beside it, so nothing says where it runs",
                    f"copy {name}.json from where it was built, or {again}",
                )
                continue
            for problem in _plan_problems(question, plan, capability, record):
                yield f"{where} {problem}", again


def _plan_problems(
    question: _Question, plan: Path, capability: str, record: PlanRecord
) -> Iterator[str]:
    facts = record.record.files.get(plan.name)
    if facts is None:
        yield "is not what the record beside it describes"
        return
    damage = record.record.damage(plan.parent, question.digests)
    if damage:
        yield f"is corrupt: {'; '.join(damage)} since it was built"
        return
    if record.capability != capability and AMPERE_PLUS not in record.flags:
        yield (
            f"was built for compute capability {record.capability or 'unknown'}, "
            f"but is listed for {capability}"
        )
    yield from _version_problems(record, question.server)
    yield from _platform_problems(record, question.server)
    yield from question.sources.changes(_stage(question.model), int(plan.parent.name), record)


def _version_problems(record: PlanRecord, server: ServerFacts) -> Iterator[str]:
    if not record.tensorrt:
        yield "has a record that does not state its TensorRT version"
        return
    if server.tensorrt is None or same_tensorrt(record.tensorrt, server.tensorrt):
        return
    source = f" ({server.source})" if server.source else ""
    against = f"the server has TensorRT {server.tensorrt}{source}"
    if not record.version_compatible:
        yield f"was built by TensorRT {record.tensorrt}, {against}"
    elif record.tensorrt.split(".")[0] != server.tensorrt.split(".")[0]:
        yield (
            f"was built by TensorRT {record.tensorrt}, {against}: even a version-compatible plan "
            "runs within one major version only"
        )
    elif not server.version_compatible:
        yield (
            f"was built by TensorRT {record.tensorrt} as a version-compatible plan, {against} and "
            "is started without --backend-config=tensorrt,version-compatible=true"
        )


def _platform_problems(record: PlanRecord, server: ServerFacts) -> Iterator[str]:
    built = _processor(record.os)
    runs = _processor(server.platform)
    if built and runs and built != runs:
        yield f"was built on {record.os}, the server runs on {server.platform}"


def _processor(text: str) -> str | None:
    return next((name for name in _PROCESSORS if name in text), None)


_CHECKS: Iterable[Callable[[_Question], Iterator[Answer]]] = (
    _no_version,
    _unsafe_names,
    _keys,
    _fallback,
    _gpu_without_plan,
    _plans,
)
