"""The device that a network runs on: picked by name, described, waited for, and what a run takes of it.

Nothing here changes a device's settings. NVML (package nvidia-ml-py) is asked where it is installed.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hmrbench import environment
from hmrbench.errors import HmrbenchError, UsageError
from hmrbench.records import Array
from hmrbench.schema import ModelCard

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
MB = 2**20
_STATUS, _CGROUP = Path("/proc/self/status"), Path("/sys/fs/cgroup")
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of glibc's malloc.h
_OUT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "not enough memory", "_ALLOC_FAILED", "bad_alloc",
    "could not create a primitive",  # oneDNN's kernels
    "Resource temporarily unavailable",  # the stack of a thread
)  # fmt: skip


def pick_device(name: str) -> torch.device:
    """A device by name; `auto` is the GPU where there is one.

    Raises:
        UsageError: no such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as e:
        raise UsageError(f"no device '{name}' here: {str(e).splitlines()[0]}") from e
    return device


def device_name(device: torch.device) -> str:
    """The device's product name: two runs with the same name may be compared."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else environment.cpu_name()


def describe_device(device: torch.device) -> dict[str, Any]:
    """What decides a device's speed: of a GPU driver, clocks, power limit (None where NVML does not say)."""
    if device.type != "cuda":
        return {
            "name": environment.cpu_name(),
            "cpus": os.cpu_count(),
            "capability": torch.backends.cpu.get_cpu_capability(),
        }
    return {
        "name": torch.cuda.get_device_name(device),
        "memory_mb": round(torch.cuda.get_device_properties(device).total_memory / MB),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        **_ask_nvml(
            device,
            driver=lambda nvml, gpu: nvml.nvmlSystemGetDriverVersion(),
            power_limit_w=lambda nvml, gpu: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000,
            clock_sm_mhz=lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
            clock_sm_max_mhz=lambda nvml, gpu: nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM),
            clock_memory_mhz=lambda nvml, gpu: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
            temperature_c=lambda nvml, gpu: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
        ),
    }


def energy_mj(device: torch.device) -> float | None:
    """Energy in mJ that the GPU has used since its driver was loaded; None where nothing says so."""
    found: float | None = _ask_nvml(device, mj=lambda nvml, gpu: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu))["mj"]
    return found


def _ask_nvml(device: torch.device, **questions: Callable[[Any, Any], Any]) -> dict[str, Any]:
    """Answers by name, None where there is none: no NVIDIA GPU, no NVML, or nothing that this GPU tells."""
    answers: dict[str, Any] = dict.fromkeys(questions)
    if device.type != "cuda":
        return answers
    try:
        pynvml = importlib.import_module("pynvml")
        pynvml.nvmlInit()
    except Exception:  # not installed, or no driver to talk to
        return answers
    try:
        uuid = torch.cuda.get_device_properties(device).uuid  # NVML counts GPUs in another order
        gpu = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        for name, question in questions.items():
            with suppress(pynvml.NVMLError):
                answers[name] = question(pynvml, gpu)
    except (pynvml.NVMLError, AttributeError):
        pass
    finally:
        pynvml.nvmlShutdown()
    return answers


@contextmanager
def precision(dtype: str, device: torch.device) -> Iterator[None]:
    """Autocast for half precision, as in an evaluation; TF32 only if asked for, so that fp32 means fp32."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = dtype == "tf32"
    try:
        with torch.autocast(device.type, DTYPES.get(dtype), enabled=dtype in ("fp16", "bf16")):
            yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class Normalize:
    """(B, H, W, 3) RGB from 0 to 255, on the host or the device -> (B, 3, H, W) float32 on the device, normalised and
    in the order of channels as the card says."""

    def __init__(
        self, card: ModelCard, device: torch.device, layout: torch.memory_format = torch.contiguous_format
    ) -> None:
        self.device, self.layout = device, layout
        self.mirrored = card.crop.order == "bgr"
        self.mean = torch.tensor(card.crop.mean, device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(card.crop.std, device=device).view(1, 3, 1, 1)

    def __call__(self, images: Array | Tensor) -> Tensor:
        x = torch.as_tensor(images)
        x = x.flip(-1) if self.mirrored else x
        if self.device.type == "cuda" and not x.is_cuda:
            x = x.pin_memory()
        x = x.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float().div(255)  # (B, 3, H, W)
        return x.sub_(self.mean).div_(self.std).contiguous(memory_format=self.layout)


# --------------------------------------------------------------------------- memory


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the host."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, HmrbenchError) and error.__cause__ is not None:
        return is_out_of_memory(error.__cause__)
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)


def free(device: torch.device) -> None:
    """Give back what nobody uses any more, so that one model's memory is not counted as the next one's."""
    gc.collect()
    trim(device)


def trim(device: torch.device) -> None:
    """Give the memory that allocators keep for later back to the device or the system."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    with suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


def keep_freed_memory(device: torch.device) -> None:
    """Make forwards on the CPU reuse the memory of the one before, from here on in this process.

    Otherwise glibc gives large blocks back to the system after some forwards and faults them in again for the next
    ones: up to a third of the time of a Swin network, more or less as earlier models left the heap (mallopt(3)).
    `trim` still gives everything back.
    """
    if device.type == "cpu":
        with suppress(OSError, AttributeError):  # glibc only
            libc = ctypes.CDLL(None)
            libc.mallopt(_M_MMAP_MAX, 0)  # no block has a mapping of its own, however large
            libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
            # A thread that has run out of memory goes on in another arena, which maps large blocks after all.
            libc.mallopt(_M_ARENA_MAX, 1)


class PeakMemory:
    """Highest memory of a device since this was made.

    `grown_mb()` is what came on top of the memory in use then: in PyTorch's allocator on a GPU, resident
    pages of this process on the CPU, None elsewhere. (Linux counts VmHWM anew after a 5 in clear_refs.)
    On the CPU tens of MB lie between runs: the C library may use what it kept of earlier models, or not.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        trim(device)
        synchronize(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif device.type == "cpu":
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
        self.before = self._read("VmRSS", "allocated_bytes.all.current")

    def _read(self, resident: str, allocated: str) -> float | None:
        if self.device.type == "cuda":
            return float(torch.cuda.memory_stats(self.device)[allocated]) / MB
        return _status_mb(resident) if self.device.type == "cpu" else None

    def grown_mb(self) -> float | None:
        """MB on top of what was in use before."""
        peak = self._read("VmHWM", "allocated_bytes.all.peak")
        return None if peak is None or self.before is None else max(0.0, peak - self.before)


def _status_mb(key: str) -> float | None:
    with suppress(OSError):
        found = re.search(rf"^{key}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
        return int(found[1]) / 1024 if found else None
    return None


def available_mb() -> float | None:
    """Memory of the host that is free to be taken, as Linux or the container around us puts it."""
    limits = []
    with suppress(OSError):
        found = re.search(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
        limits += [int(found[1]) / 1024] if found else []
    with suppress(OSError, ValueError):  # "max" is no bound
        bound, taken = (int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = (_CGROUP / "memory.stat").read_text()
        cached = sum(map(int, re.findall(r"^(?:in)?active_file (\d+)$", stat, re.MULTILINE)))
        limits.append((bound - taken + cached) / MB)  # files that were read count as taken, and give way
    return min(limits, default=None)


@contextmanager
def bounded_memory(device: torch.device) -> Iterator[None]:
    """Let an allocation beyond what the host has free fail, where Linux would end the whole process later."""
    data, available = _status_mb("VmData"), available_mb()
    if device.type != "cpu" or data is None or available is None:
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    bound = int((data + available) * MB)
    limits = [bound, *(x for x in before if x != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)
