"""TensorRT's progress monitor: the phases of a build, told to whoever draws them.

TensorRT calls `phase_start`, `step_complete` and `phase_finish` from the thread that builds; a
phase may lie inside another one, and phases at one level may run at the same time. An answer of
False from `step_complete` cancels the build, which is how Ctrl-C gets through to it.
"""

from dataclasses import dataclass, field
from typing import Any

from builder.engines.trt.seam import Progress


@dataclass(slots=True)
class Phases:
    """The phases that are running, without TensorRT.

    Args:
        report: Told about the outermost phase that is running.
    """

    report: Progress
    interrupted: bool = False
    _running: dict[str, list[int]] = field(default_factory=dict)

    def start(self, name: str, steps: int) -> None:
        """A phase of so many steps begins."""
        self._running[name] = [0, steps]
        self._tell()

    def step(self, name: str, step: int) -> bool:
        """A step is done, counted from 0; False asks TensorRT to stop."""
        if name in self._running:
            self._running[name][0] = step + 1
        self._tell()
        return not self.interrupted

    def finish(self, name: str) -> None:
        """A phase ends, before its last step if the build was cancelled."""
        self._running.pop(name, None)
        self._tell()

    def _tell(self) -> None:
        if self.interrupted or not self._running:
            return
        name, (done, steps) = next(iter(self._running.items()))
        try:
            self.report(name, done, steps)
        except KeyboardInterrupt:  # must not travel through TensorRT's C++ frames
            self.interrupted = True


def make_monitor(phases: Phases) -> Any:
    """A `trt.IProgressMonitor` that tells `phases`."""
    import tensorrt as trt

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            try:
                return phases.step(phase_name, step)
            except KeyboardInterrupt:
                phases.interrupted = True
                return False

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()
