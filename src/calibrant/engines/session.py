"""onnxruntime sessions as the engine wants them: options, execution providers, errors."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from calibrant.core import ModelError, SettingError, unknown
from calibrant.engines.samples import Feed

CPU = "CPUExecutionProvider"
Provider = str | tuple[str, dict[str, Any]]
_SILENT = 4  # what goes wrong arrives as an exception, with the same text; no second copy on stderr


@dataclass(frozen=True)
class Runtime:
    """The choices that every session of an executor shares. `Runtime.of` checks them."""

    providers: tuple[Provider, ...]
    threads: int

    @classmethod
    def of(cls, providers: Sequence[Provider] | Provider | None, threads: int | None) -> Runtime:
        """providers: names in any case, "cuda" for "CUDAExecutionProvider", or (name, options); None: the CPU.
        threads: for onnxruntime and for the statistics alike; None: as many as this process may use.

        Raises SettingError for threads < 1 and for a provider that this onnxruntime does not have.
        """
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise SettingError(f"threads must be a whole number from 1, got {threads!r}")
        one = isinstance(providers, str) or (
            isinstance(providers, tuple) and any(isinstance(p, dict) for p in providers)
        )
        chosen = [providers] if one else list(providers or [CPU])
        return cls(tuple(_known_provider(p) for p in chosen), threads or usable_processors())

    @property
    def on_cpu_only(self) -> bool:
        return [_name(p) for p in self.providers] == [CPU]

    def open(
        self,
        model: bytes | Path,
        threads: int | None = None,
        *,
        optimize: bool = True,
        save_to: Path | None = None,
        weights: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> Any:
        """An InferenceSession.

        threads: of one run; None: all. save_to: also write the optimized model there, its weights into a file beside.
        weights: by name, the numbers of those that `given_to_session` wrote; they have to live as long as the session.

        Raises ModelError with onnxruntime's reason, and SettingError when a provider could not be started
        (onnxruntime would go on with the CPU).
        """
        options = _options(threads or self.threads, optimize)
        if save_to is not None:
            options.optimized_model_filepath = str(save_to)
            prefix = "session.optimized_model_external_initializers_"
            options.add_session_config_entry(prefix + "file_name", save_to.name + ".weights")
            options.add_session_config_entry(prefix + "min_size_in_bytes", "1024")
        if weights:
            values = [ort.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
            options.add_external_initializers(list(weights), values)
        source = model if isinstance(model, bytes) else str(model)
        try:
            session = ort.InferenceSession(source, options, providers=list(self.providers), enable_fallback=0)
        except Exception as error:  # onnxruntime's own types share no base but Exception
            raise ModelError(f"onnxruntime {ort.__version__} cannot run the model: {reason(error)}") from error
        absent = [name for name in map(_name, self.providers) if name not in session.get_providers()]
        if absent:
            raise SettingError(
                f"{', '.join(absent)} could not be started: its libraries or its device are missing. "
                "Install what it needs, or choose other providers"
            )
        return session


def given_to_session(name: str, array: NDArray[np.float32]) -> onnx.TensorProto:
    """A weight whose numbers are not in the model: a session is given them when it is opened, and makes no copy."""
    where = {"location": "memory", "offset": "0", "length": str(array.nbytes)}
    return onnx.TensorProto(
        name=name,
        dims=array.shape,
        data_type=onnx.TensorProto.FLOAT,
        data_location=onnx.TensorProto.EXTERNAL,
        external_data=[onnx.StringStringEntryProto(key=key, value=value) for key, value in where.items()],
    )


def usable_processors() -> int:
    """The processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def return_memory() -> None:
    """Give the system back what opening a session has freed: as much again as the model, several times over.

    glibc keeps it for the thread that opened the session, and others compute. Elsewhere there is nothing to do.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def run(session: Any, names: Sequence[str], feed: Feed) -> list[Any]:
    """The values `names`, as views of onnxruntime's own buffers, which live as long as the arrays do.

    Raises ModelError with onnxruntime's reason and the shapes that were fed.
    """
    try:
        outputs: list[Any] = session.run(list(names), feed)
    except Exception as error:  # see Runtime.open
        given = ", ".join(f"'{name}' {_described(array)}" for name, array in feed.items())
        raise ModelError(f"onnxruntime failed on {given}: {reason(error)}") from error
    return outputs


def _described(fed: Any) -> str:
    return f"{fed.dtype}{list(fed.shape)}" if isinstance(fed, np.ndarray) else f"a sequence of {len(fed)}"


_PLACE = re.compile(r"[^\s:]+\.(cc|h):\d+ [^()]*\(.*?\)( const)? (?=\S)")  # file, line, signature


def reason(error: Exception) -> str:
    """onnxruntime's message on one line, without its status prefix and the place in its sources."""
    text = _PLACE.sub("", " ".join(str(error).split()))
    return text.split(" : ", 3)[-1] if text.startswith("[ONNXRuntimeError]") else text


def _known_provider(provider: Any) -> Provider:
    name, options = provider if isinstance(provider, tuple) else (str(provider), None)
    here = ort.get_available_providers()
    for known in ort.get_all_providers():
        if name.casefold() in (known.casefold(), known.removesuffix("ExecutionProvider").casefold()):
            if known not in here:
                raise SettingError(f"{known} is not part of the installed onnxruntime, which has {', '.join(here)}")
            return known if options is None else (known, options)
    raise SettingError(unknown("execution provider", name, here))


def _name(provider: Provider) -> str:
    return provider if isinstance(provider, str) else provider[0]


def _options(threads: int, optimize: bool) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _SILENT
    # Threads that spin while they wait would take the cores from the statistics.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # An arena keeps the most that ever was needed at once, and is not faster here than the system's allocator.
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimize else level.ORT_DISABLE_ALL
    return options
