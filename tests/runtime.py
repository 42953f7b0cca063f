"""onnxruntime, as tests run a quantized model with it."""

from pathlib import Path

import onnxruntime as ort


def opened(model: Path | str | bytes, optimized: bool = True, save: Path | None = None, **entries: str):
    """A session on the CPU whose integer sums are exact, on x86 processors without VNNI as well.

    optimized: on integer kernels; else the model as it is written. save: where to write the optimized model.
    entries: more of the session's options, by the part of their name behind `session.`.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    for name, value in ({"x64quantprecision": "1"} | entries).items():
        options.add_session_config_entry(f"session.{name}", value)
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if save is not None:
        options.optimized_model_filepath = str(save)
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
