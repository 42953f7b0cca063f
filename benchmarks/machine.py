"""What was measured where: one line about the software and the processor, for the head of every table."""

import os
import platform
import shlex
import sys
from pathlib import Path

import onnxruntime as ort

import calibrant


def description() -> str:
    """Versions, processor, cores, and whether the processor has VNNI (without it uint8 x int8 sums may saturate)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"calibrant {calibrant.__version__}, onnxruntime {ort.__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {_processor()}, {cores} cores"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    pairs = (line.partition(":") for line in lines if ":" in line)
    facts = {key.strip(): value.strip() for key, _, value in pairs}
    vnni = any(flag in facts.get("flags", "") for flag in ("avx512_vnni", "avx_vnni"))
    return f"{facts.get('model name', platform.machine())} ({'VNNI' if vnni else 'no VNNI'})"


def command() -> str:
    """The command that is running, as one would type it; of absolute paths, the last part."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    words = [Path(word).name if os.path.isabs(word) else word for word in sys.argv[1:]]
    return shlex.join(["python", "-m", spec.name if spec else Path(sys.argv[0]).name, *words])


def peak_mb() -> float:
    """The largest resident size that this process has had, in MB.

    Linux: VmHWM, as getrusage counts what the parent had at the fork as well. Elsewhere: getrusage, or Windows' own.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1000 * 1.024
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
