"""A `pytorch` backend written in Python, for servers without the official one.

Triton runs this file for every model whose config says `backend: "pytorch"`: it serves the
TorchScript file `model.pt` of the version, as the official backend does.

Tensors are matched with the module by the official conventions: every name `<NAME>__<index>`
counts positions; inputs that all bear the names of `forward`'s arguments go to these; otherwise
the order in config.pbtxt is that of the module. A module may also return a dict by output name.

Parameters understood, as by the official backend: `INTRA_OP_THREAD_COUNT`,
`INTER_OP_THREAD_COUNT`, `DISABLE_OPTIMIZED_EXECUTION`.

Triton starts a process only for `auto_complete_config` and another one to serve: torch, which
takes seconds to import, is left to the second.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

_INDEXED = re.compile(r"__(\d+)$")
_UNSUPPORTED = {"TYPE_STRING", "TYPE_BF16"}


class TritonPythonModel:
    """One instance of a TorchScript model."""

    @staticmethod
    def auto_complete_config(auto_complete_model_config: Any) -> Any:
        """Check what cannot be completed: a TorchScript file tells no names, dims or dtypes.

        Raises:
            ValueError: The config declares no inputs or no outputs.
        """
        config = auto_complete_model_config.as_dict()
        for what in ("input", "output"):
            if not config.get(what):
                raise ValueError(
                    f"config.pbtxt declares no {what}; TorchScript files do not tell names, data "
                    "types and dims, so declare them"
                )
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Load the module.

        Raises:
            ValueError: The file is missing or no TorchScript, or the config does not fit it.
        """
        config = json.loads(args["model_config"])
        self.name = config["name"]
        self.batched = config["max_batch_size"] > 0
        self.dtypes = {}
        for tensor in (*config["input"], *config["output"]):
            if tensor["data_type"] in _UNSUPPORTED:
                raise ValueError(
                    f"tensor {tensor['name']} is {tensor['data_type']}, which this pytorch "
                    "backend does not support"
                )
            dtype = pb_utils.triton_string_to_numpy(tensor["data_type"])
            self.dtypes[tensor["name"]] = np.dtype(dtype)
        parameters = {k: v["string_value"] for k, v in config.get("parameters", {}).items()}
        threads = _count(parameters, "INTRA_OP_THREAD_COUNT")
        interop_threads = _count(parameters, "INTER_OP_THREAD_COUNT")
        self.optimize = parameters.get("DISABLE_OPTIMIZED_EXECUTION", "").lower() != "true"
        path = Path(args["model_repository"]) / args["model_version"]
        path /= config.get("default_model_filename") or "model.pt"
        if not path.is_file():
            raise ValueError(f"there is no {path}")

        import torch

        if threads:
            torch.set_num_threads(threads)
        if interop_threads:
            torch.set_num_interop_threads(interop_threads)
        gpu = args["model_instance_kind"] == "GPU"
        self.device = torch.device(f"cuda:{args['model_instance_device_id']}" if gpu else "cpu")
        self.module = self._load(path)
        names = [i["name"] for i in config["input"]]
        arguments = [a.name for a in self.module.forward.schema.arguments[1:]]
        self.inputs, self.keywords = self._order_inputs(names, arguments)
        self.outputs = _by_index([o["name"] for o in config["output"]])

    def _load(self, path: Path) -> Any:
        import torch

        try:
            module: Any = torch.jit.load(str(path), map_location=self.device)  # type: ignore[no-untyped-call]
            return module.eval()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0].split(". ")[0]
            raise ValueError(
                f"{path.name} is no valid TorchScript file ({path.stat().st_size} bytes): "
                f"{reason}; build it again"
            ) from None

    def _order_inputs(self, names: list[str], arguments: list[str]) -> tuple[list[str], bool]:
        """The input names in the order of the arguments, and whether they are argument names."""
        if len(names) > len(arguments):
            raise ValueError(
                f"config.pbtxt declares {len(names)} inputs, but forward takes {len(arguments)}: "
                f"{', '.join(arguments)}"
            )
        by_index = _by_index(names)
        keywords = set(names) <= set(arguments) and by_index == names
        return by_index, keywords

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests: those of equal shapes as one batch, each failure on its own."""
        responses: list[Any] = [None] * len(requests)
        groups: dict[Any, list[int]] = {}
        arrays: dict[int, dict[str, np.ndarray[Any, Any]]] = {}
        for i, request in enumerate(requests):
            if request.is_cancelled():
                responses[i] = _failure("cancelled by the client", pb_utils.TritonError.CANCELLED)
                continue
            arrays[i] = {t.name(): t.as_numpy() for t in request.inputs()}
            key: Any = i
            if self.batched:
                key = tuple(sorted((n, a.shape[1:]) for n, a in arrays[i].items()))
            groups.setdefault(key, []).append(i)
        for members in groups.values():
            answers: list[Any]
            try:
                answers = self._run([arrays[i] for i in members])
            except Exception as error:
                # One bad request must not fail its neighbours: run them one by one.
                answers = [self._alone(arrays[i]) if members[1:] else error for i in members]
            for i, answer in zip(members, answers, strict=True):
                responses[i] = self._respond(requests[i], answer)
        return responses

    def _alone(self, arrays: dict[str, Any]) -> Any:
        try:
            return self._run([arrays])[0]
        except Exception as error:
            return error

    def _run(self, batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Outputs by name for each request; all of them in one call of the module."""
        import torch

        names = [name for name in self.inputs if name in batch[0]]
        tensors = {}
        for name in names:
            parts = [torch.from_numpy(np.require(b[name], requirements="W")) for b in batch]
            whole = torch.cat(parts) if len(parts) > 1 else parts[0]
            tensors[name] = whole.to(self.device)
        optimized = torch.jit.optimized_execution  # type: ignore[attr-defined]
        with torch.inference_mode(), optimized(self.optimize):
            result = self.module(**tensors) if self.keywords else self.module(*tensors.values())
        outputs = self._named(result)
        if len(batch) == 1:
            return [outputs]
        sizes = [b[names[0]].shape[0] for b in batch]
        for name, array in outputs.items():
            if array.shape[:1] != (sum(sizes),):
                raise ValueError(
                    f"output {name}: the first dim of {list(array.shape)} is not the batch "
                    f"({sum(sizes)}); set max_batch_size to 0"
                )
        splits = {n: np.split(a, np.cumsum(sizes)[:-1]) for n, a in outputs.items()}
        return [{n: parts[i] for n, parts in splits.items()} for i in range(len(batch))]

    def _named(self, result: Any) -> dict[str, Any]:
        import torch

        if isinstance(result, dict):
            missing = set(self.outputs) - set(result)
            if missing:
                raise ValueError(f"the module returned no {', '.join(sorted(missing))}")
            found = [result[name] for name in self.outputs]
        else:
            found = [result] if isinstance(result, torch.Tensor) else list(result)
        if len(found) < len(self.outputs):
            raise ValueError(
                f"the module returned {len(found)} tensors, config.pbtxt has {len(self.outputs)}"
            )
        arrays = {}
        for name, tensor in zip(self.outputs, found, strict=False):
            array = np.ascontiguousarray(tensor.cpu().numpy())
            if array.dtype != self.dtypes[name]:
                raise ValueError(
                    f"output {name} is {array.dtype}, but config.pbtxt says {self.dtypes[name]}"
                )
            arrays[name] = array
        return arrays

    def _respond(self, request: Any, answer: Any) -> Any:
        if isinstance(answer, Exception):
            shapes = ", ".join(f"{t.name()} {list(t.shape())}" for t in request.inputs())
            # Of TorchScript's long tracebacks the last line says what was wrong.
            lines = [line for line in str(answer).splitlines() if line.strip()] or [repr(answer)]
            return _failure(
                f"model {self.name} failed on {shapes}: {lines[-1]}",
                pb_utils.TritonError.INVALID_ARG,
            )
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, answer[name]) for name in answer if name in wanted]
        )

    def finalize(self) -> None:
        """Let go of the module."""
        del self.module


def _by_index(names: list[str]) -> list[str]:
    """The names by the index at their ends, where they all have one; else as they are."""
    found = [_INDEXED.search(name) for name in names]
    if not all(found):
        return names
    return [
        name
        for _, name in sorted((int(f[1]), name) for f, name in zip(found, names, strict=True) if f)
    ]


def _count(parameters: dict[str, str], key: str) -> int:
    """A number of threads from the parameters; 0 leaves the choice to torch."""
    text = parameters.get(key) or "0"
    if not text.strip().isdecimal():
        raise ValueError(f"parameter {key} is no number: {text!r}")
    return int(text)


def _failure(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
