"""Which settings of a stage are tried: the neighbours of the current ones that make sense.

Two legs, one after the other: how the model is executed (instances, threads), then how requests
are batched. A leg starts from the winner of the one before, so what only pays together across
legs is not found; in exchange a search is a dozen candidates, not their product.
"""

import dataclasses
from dataclasses import dataclass

from builder.config import StageOptions

TUNED = (
    "instances",
    "intra_op_threads",
    "dynamic_batching",
    "preferred_batch_sizes",
    "max_queue_delay_us",
)
"""Settings that are searched. All of them can be changed without building anything again."""

DELAYS_US = (0, 100, 500, 2000)
"""Queue delays that are tried, in microseconds."""

_DELAY_WITH_SIZES_US = (0, 500)


@dataclass(frozen=True, slots=True)
class Leg:
    """Candidates that differ from each other in settings that belong together."""

    name: str
    candidates: tuple[StageOptions, ...]


def execution_leg(base: StageOptions, cores: int) -> Leg:
    """Instances and threads; those that use all cores come first.

    No more threads in all than there are cores: on the CPU they would only wait for each other.

    Args:
        base: The current settings, which are no candidate.
        cores: Of the machine that serves.
    """
    counts = _powers_of_two(cores)
    on_gpu = base.device == "gpu"  # threads of the CPU do not compute there
    pairs = [
        (instances, base.intra_op_threads if on_gpu else threads)
        for instances in ((1, 2, 3, 4) if on_gpu else counts)
        for threads in ((1,) if on_gpu else counts)
        if on_gpu or instances * threads <= cores
    ]
    pairs.sort(key=lambda pair: (-pair[0] * pair[1], pair[1]))
    here = (base.instances, _threads(base, cores))
    return Leg(
        "execution",
        tuple(
            dataclasses.replace(base, instances=instances, intra_op_threads=threads)
            for instances, threads in pairs
            if (instances, threads or cores) != here
        ),
    )


def batching_leg(base: StageOptions, max_batch_size: int) -> Leg:
    """Queue delay and preferred batch sizes, and no batching; nothing where there is no batch dim.

    The largest batch alone is no candidate: it is what Triton prefers where nothing is named.
    """
    if max_batch_size < 2:
        return Leg("batching", ())
    on = dataclasses.replace(base, dynamic_batching=base.dynamic_batching or None)
    sizes = [n for n in _powers_of_two(max_batch_size) if n > 1]
    lists = list(dict.fromkeys([(max_batch_size // 2,), tuple(sizes)]))
    wanted: list[tuple[int, tuple[int, ...]]] = [(delay, ()) for delay in DELAYS_US]
    wanted += [
        (delay, preferred)
        for delay in _DELAY_WITH_SIZES_US
        for preferred in lists
        if preferred != (max_batch_size,) and preferred[0] > 1
    ]
    candidates = [
        dataclasses.replace(on, max_queue_delay_us=delay, preferred_batch_sizes=preferred)
        for delay, preferred in wanted
    ]
    candidates.append(
        dataclasses.replace(
            base, dynamic_batching=False, max_queue_delay_us=0, preferred_batch_sizes=()
        )
    )
    here = _batching(base, max_batch_size)
    return Leg("batching", tuple(c for c in candidates if _batching(c, max_batch_size) != here))


def legs(base: StageOptions, max_batch_size: int, cores: int) -> tuple[Leg, ...]:
    """All legs of a stage, seen from `base`; those without candidates are left out."""
    return tuple(
        leg
        for leg in (execution_leg(base, cores), batching_leg(base, max_batch_size))
        if leg.candidates
    )


def changes(options: StageOptions, base: StageOptions) -> dict[str, object]:
    """The tuned settings in which `options` differs from `base`, as builder.toml states them."""
    found: dict[str, object] = {}
    for name in TUNED:
        value = getattr(options, name)
        if value != getattr(base, name):
            if name == "dynamic_batching" and value is None:
                value = True  # a file cannot say "unset"
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def describe(options: StageOptions, max_batch_size: int) -> str:
    """The tuned settings in a line."""
    words = [f"instances {options.instances}", f"threads {options.intra_op_threads}"]
    if max_batch_size > 0:
        if options.dynamic_batching is False:
            words.append("no batching")
        else:
            words.append(f"delay {options.max_queue_delay_us} us")
            if options.preferred_batch_sizes:
                words.append(f"prefer {','.join(map(str, options.preferred_batch_sizes))}")
    return ", ".join(words)


def _threads(options: StageOptions, cores: int) -> int:
    return options.intra_op_threads or cores


def _batching(options: StageOptions, max_batch_size: int) -> tuple[object, ...]:
    """What the server makes of the settings: equal means that it does the same."""
    if options.dynamic_batching is False:
        return (False,)
    return (
        True,
        options.max_queue_delay_us,
        options.preferred_batch_sizes or (max_batch_size,),
    )


def _powers_of_two(most: int) -> list[int]:
    """1, 2, 4, … and `most` itself."""
    counts = [1]
    while counts[-1] * 2 <= most:
        counts.append(counts[-1] * 2)
    return counts if counts[-1] == most else [*counts, most]
