"""What processes use, and whether a load is steady."""

import itertools
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from builder.bench.gpu import GpuWatch, read_samples
from builder.bench.processes import cpu_seconds, descendants, resident_mib
from builder.bench.usage import Sample, Sampler, busy_part, middle_rate, steady

SPIN = "import time\nend = time.time() + {}\nwhile time.time() < end: pass"


def test_cpu_and_memory_are_those_that_the_system_accounts() -> None:
    sum(i * i for i in range(500_000))
    used = resource.getrusage(resource.RUSAGE_SELF)
    assert cpu_seconds(os.getpid()) == pytest.approx(used.ru_utime + used.ru_stime, abs=0.1)
    memory = resident_mib(os.getpid())
    assert memory is not None
    assert 1 < memory <= used.ru_maxrss / 1024 + 1


def test_processes_that_are_gone_have_no_figures() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert cpu_seconds(child.pid) is None
    assert resident_mib(child.pid) is None


def test_grandchildren_are_found() -> None:
    code = "import subprocess; subprocess.run(['sleep', '60'])"
    child = subprocess.Popen([sys.executable, "-c", code], process_group=0)
    try:
        deadline = time.monotonic() + 20
        while not (below := descendants(child.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(below) == 1
        assert child.pid in descendants(os.getpid())
        assert below[0] in descendants(os.getpid())
    finally:
        os.killpg(child.pid, 9)
        child.wait()


def test_the_sampler_sees_the_load_and_its_processor_time() -> None:
    child = subprocess.Popen([sys.executable, "-c", SPIN.format(1.0)])
    counter = itertools.count()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with Sampler(
        server=None, clients=[child.pid], answered=lambda: next(counter), period=0.05
    ) as sampler:
        child.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    cores = sampler.usage().client_cores
    assert cores is not None
    assert cores * sampler.seconds == pytest.approx(used, abs=0.35)
    assert sampler.usage().server_cores is None
    assert sampler.answered == len(sampler.busy) - 1


def test_a_load_that_nobody_answers_has_no_figures() -> None:
    with Sampler(server=None, clients=[], answered=lambda: 7, period=0.01) as sampler:
        time.sleep(0.05)
    assert (sampler.seconds, sampler.answered) == (0.0, 0)
    assert sampler.usage().client_cores is None
    assert sampler.steady


def test_only_the_time_with_answers_counts() -> None:
    counts = [0, 0, 0, 5, 10, None, 15, 15, 15]
    samples = [Sample(float(at), count) for at, count in enumerate(counts)]
    busy = busy_part(samples)
    assert [sample.at for sample in busy] == [3.0, 4.0, 6.0]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (range(0, 100, 10), True),
        ([0, 10, 20, 30, 33, 36, 39, 50, 60, 70], False),  # a third of it was slow
        ([0, 90, 91, 92, 93, 94, 95, 96, 97, 98], False),
        ([0, 0, 1, 1, 1, 2, 2, 3, 3, 9], True),  # too few to tell
        ([0, 100], True),
    ],
)
def test_steady_means_the_same_rate_in_each_third(counts: list[int], expected: bool) -> None:
    assert steady([(float(at), count) for at, count in enumerate(counts)]) is expected


def test_the_middle_half_leaves_out_the_start_and_the_end() -> None:
    # 10 per second from 2 s to 8 s; before and after that, not all of the load is there.
    points = [(0.0, 0), (2.0, 4), (8.0, 64), (10.0, 66)]
    assert middle_rate(points) == pytest.approx(10.0)
    assert middle_rate(points[:2]) is None
    assert middle_rate([]) is None


def test_gpu_figures_are_read_from_nvidia_smi() -> None:
    assert read_samples("10, 500\n30, 700\n[N/A], 600\nNVIDIA-SMI has failed\n") == (20.0, 700.0)
    assert read_samples("") == (None, None)


def test_nvidia_smi_runs_while_the_block_does(tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\nwhile true; do echo '40, 800'; sleep 0.05; done\n")
    program.chmod(0o755)
    with GpuWatch(str(tmp_path)) as watch:
        time.sleep(0.3)
    assert (watch.percent, watch.mib) == (40.0, 800.0)
    with GpuWatch(str(tmp_path / "nowhere")) as none:
        pass
    assert (none.percent, none.mib) == (None, None)
