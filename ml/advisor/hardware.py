"""Hardware that a process can use: cores, memory, instruction sets and GPUs, within the limits of its container."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "bf16")
"""The flags of a processor that matter to the advice, in the spelling of Linux. `bf16` is ARM's."""


@dataclass(frozen=True)
class Hardware:
    """What a training process can use.

    Attributes:
        processor: Name of the processor's model.
        cores: Number of cores: the smallest of the machine's, the process's affinity and the container's quota, which may be a
            fraction.
        memory: Bytes of memory: the smaller of the machine's and the container's limit.
        instructions: The instruction sets of `INSTRUCTIONS` that the processor has.
        gpus: Names of NVIDIA's GPUs. Training uses the processor only; the advice names them.

    Example:
        >>> Hardware("a processor", cores=2.0, memory=8 << 30, instructions=("avx512_bf16",)).bfloat16
        True
    """

    processor: str
    cores: float
    memory: int
    instructions: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()

    @property
    def bfloat16(self) -> bool:
        """Whether the processor multiplies matrices of bfloat16 in hardware."""
        return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(self.instructions))

    @property
    def machine(self) -> str:
        """Identifier of machines whose speed per core is the same: a hash of processor and instruction sets."""
        text = "\n".join((self.processor, *self.instructions))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def detect(root: Path = Path("/")) -> Hardware:
    """Return the hardware that this process can use.

    Args:
        root: Where the file systems `/proc` and `/sys` are mounted.

    Returns:
        The hardware. What the operating system does not say is absent: without `/proc/cpuinfo`, the processor is `unknown` and
        has no instruction sets.
    """
    name, flags = _processor(root)
    groups = list(_control_groups(root))
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = min([float(affinity), *(quota for group in groups if (quota := _cpu_quota(group)) is not None)])
    limits = (limit for group in groups if (limit := _memory_limit(group)) is not None)
    memory = min([psutil.virtual_memory().total, *limits])
    return Hardware(name, cores, memory, tuple(i for i in INSTRUCTIONS if i in flags), tuple(_gpus(root)))


def _processor(root: Path) -> tuple[str, set[str]]:
    fields: dict[str, str] = {}
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, colon, value = line.partition(":")
        if colon:
            fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or fields.get("CPU part") or "unknown"
    return name, set((fields.get("flags") or fields.get("Features") or "").split())


def _control_groups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control groups, of version 2 and 1, and of all groups above them."""
    places = [(root / "sys/fs/cgroup", "/")]
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        mounts = [root / "sys/fs/cgroup"] if not controllers else [root / "sys/fs/cgroup" / controllers]
        mounts += [root / "sys/fs/cgroup" / name for name in controllers.split(",") if name in ("cpu", "memory")]
        places += [(mount, path) for mount in mounts]
    for mount, path in places:
        inside = Path(path.lstrip("/"))
        for group in (inside, *inside.parents):
            if ".." not in group.parts:  # a group outside of this container's view
                yield mount / group


def _cpu_quota(group: Path) -> float | None:
    """Return a group's limit in cores; None without one."""
    quota, _, period = _read(group / "cpu.max").strip().partition(" ")  # version 2: "200000 100000" or "max 100000"
    if not quota:
        quota, period = (_read(group / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    try:
        cores = float(quota) / float(period or 100_000)
    except ValueError:
        return None
    return cores if cores > 0 else None


def _memory_limit(group: Path) -> int | None:
    """Return a group's limit in bytes; None without one."""
    text = _read(group / "memory.max").strip() or _read(group / "memory.limit_in_bytes").strip()
    return int(text) if text.isdigit() and int(text) < 1 << 60 else None  # version 1 has a huge number for no limit


def _gpus(root: Path) -> Iterator[str]:
    for file in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        names = [line.partition(":")[2].strip() for line in _read(file).splitlines() if line.startswith("Model:")]
        yield names[0] if names else "NVIDIA GPU"


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
