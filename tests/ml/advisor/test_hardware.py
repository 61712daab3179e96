from __future__ import annotations

from pathlib import Path

import pytest

from ml.advisor.hardware import Hardware, detect

CPUINFO = """processor\t: 0
model name\t: Fast 9000
flags\t\t: fpu avx2 avx512f avx512_bf16

processor\t: 1
model name\t: Fast 9000
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_processor_and_instruction_sets(tmp_path: Path) -> None:
    found = detect(write(tmp_path, {"proc/cpuinfo": CPUINFO}))
    assert (found.processor, found.instructions, found.bfloat16) == ("Fast 9000", ("avx2", "avx512f", "avx512_bf16"), True)
    assert found.cores >= 1 and found.memory > 1 << 20 and found.gpus == ()


@pytest.mark.parametrize(
    "files",
    [
        {
            "proc/self/cgroup": "0::/pod/job\n",
            "sys/fs/cgroup/pod/cpu.max": "50000 100000\n",
            "sys/fs/cgroup/pod/job/cpu.max": "max 100000\n",
            "sys/fs/cgroup/pod/job/memory.max": "1073741824\n",
            "sys/fs/cgroup/pod/memory.max": "max\n",
        },
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/job\n9:memory:/job\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "1073741824\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    ],
    ids=["version 2", "version 1"],
)
def test_limits_of_the_container_apply(tmp_path: Path, files: dict[str, str]) -> None:
    found = detect(write(tmp_path, files))
    assert (found.cores, found.memory) == (0.5, 1 << 30)


def test_a_container_without_limits_has_the_whole_machine(tmp_path: Path) -> None:
    unlimited = {"sys/fs/cgroup/cpu.max": "max 100000\n", "sys/fs/cgroup/memory.max": "max\n", "proc/self/cgroup": "0::/\n"}
    bare = detect(tmp_path / "nothing")
    found = detect(write(tmp_path, unlimited))
    assert (found.cores, found.memory) == (bare.cores, bare.memory)
    assert (bare.processor, bare.instructions) == ("unknown", ())


def test_gpus_are_named(tmp_path: Path) -> None:
    found = detect(write(tmp_path, {"proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t H100\nIRQ: 1\n"}))
    assert found.gpus == ("H100",)


def test_machine_is_the_same_for_equal_processors_and_differs_otherwise() -> None:
    one, other = Hardware("a", 2, 1 << 30), Hardware("b", 2, 1 << 30)
    assert one.machine == Hardware("a", 8, 1 << 34).machine != other.machine
