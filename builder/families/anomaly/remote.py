"""Scoring telemetry with a detector or pipeline of a running server."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from builder.errors import ServerError, UsageError
from builder.families.anomaly.channels import FEATURES
from builder.serving.client import infer

if TYPE_CHECKING:
    from tritonclient.grpc import InferenceServerClient

MAX_SAMPLES = 20_000
"""Samples per request: two weeks of SMAP. TranAD takes about 20 kB of the server's memory each."""

CONTEXT = 1_000
"""Samples before a chunk that are sent along and whose answers are dropped. TranAD and the
rolling statistics look back 64 samples; OmniAnomaly's memory has faded long before this."""

SCORE, DETECTED, VALID = "anomaly_score", "anomaly_detected", "sample_valid"


@dataclass(frozen=True, slots=True)
class Scored:
    """What a model said about telemetry.

    Attributes:
        score: FP32 [T].
        detected: BOOL [T].
        valid: BOOL [T], false where the pipeline filled a sample in; None from a bare detector.
    """

    score: NDArray[np.float32]
    detected: NDArray[np.bool_]
    valid: NDArray[np.bool_] | None


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A detector or pipeline of a server.

    Attributes:
        name: Its name.
        version: The version to ask; empty leaves the choice to the server.
        input_name: Name of its one input, FP32 [T,25].
        sanitises: Whether it takes NaN and Inf, and says which samples it filled in.
        fused: Whether its score is that of several detectors, in units of their thresholds.
    """

    name: str
    version: str
    input_name: str
    sanitises: bool
    fused: bool

    def score(
        self,
        client: "InferenceServerClient",
        telemetry: NDArray[np.float32],
        *,
        timeout: float,
        progress: Callable[[int], None] = lambda samples: None,
    ) -> Scored:
        """Score FP32 [T,25], in chunks where it is longer than MAX_SAMPLES.

        Args:
            client: See `builder.serving.client.connect`.
            telemetry: The samples.
            timeout: Seconds to wait for each answer.
            progress: Called after each chunk with the number of samples done so far.

        Raises:
            ServerError: The server is gone, or refuses the request.
        """
        wanted = [SCORE, DETECTED, *([VALID] if self.sanitises else [])]
        parts: dict[str, list[NDArray[Any]]] = {name: [] for name in wanted}
        for context, first, end in chunks(len(telemetry)):
            answer = infer(
                client,
                self.name,
                {self.input_name: np.ascontiguousarray(telemetry[context:end])},
                outputs=wanted,
                timeout=timeout,
                version=self.version,
            )
            for name in wanted:
                parts[name].append(answer[name][first - context :])
            progress(end)
        joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
        return Scored(joined[SCORE], joined[DETECTED], joined.get(VALID))


def chunks(samples: int) -> Iterator[tuple[int, int, int]]:
    """Parts of at most MAX_SAMPLES: where the context starts, where the part starts and ends."""
    first = 0
    while first < samples:
        context = max(0, first - CONTEXT)
        end = min(samples, context + MAX_SAMPLES)
        yield context, first, end
        first = end


def find_model(client: "InferenceServerClient", name: str, version: str = "") -> RemoteModel:
    """Look up a model that scores one channel's telemetry.

    Raises:
        ServerError: The server has no such model.
        UsageError: The model takes or gives something else.
    """
    from tritonclient.utils import InferenceServerException

    try:
        metadata = client.get_model_metadata(name, version)
    except InferenceServerException as error:
        raise ServerError(
            f"the server does not have this model: {error.message()}",
            where=f"{name} version {version}" if version else name,
            hint="builder list says what there is, builder serve why a model did not load",
        ) from error
    inputs = [(t.datatype, list(t.shape)) for t in metadata.inputs]
    outputs = {t.name for t in metadata.outputs}
    if inputs != [("FP32", [-1, FEATURES])] or not {SCORE, DETECTED} <= outputs:
        takes = ", ".join(f"{t.name} {t.datatype} {list(t.shape)}" for t in metadata.inputs)
        raise UsageError(
            f"does not score the telemetry of one channel: it takes {takes} and answers with "
            f"{', '.join(sorted(outputs))}",
            where=name,
            hint="choose a SMAP_<channel>_pipeline or anomaly_pipeline",
        )
    return RemoteModel(name, version, metadata.inputs[0].name, VALID in outputs, "votes" in outputs)
