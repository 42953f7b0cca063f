"""What users call: quantize a model, export it, collect a calibration table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibrant.analysis import analyse
from calibrant.analysis import report as pages
from calibrant.core import (
    DataError,
    SettingError,
    StateError,
    TargetPlatform,
    unknown,
)
from calibrant.distributed import RayCluster, collect_on_ray
from calibrant.engines import Executor, OnnxruntimeExecutor, TorchExecutor
from calibrant.engines.samples import check_steps, iterate_samples
from calibrant.engines.session import usable_processors
from calibrant.exporters import EXPORTERS
from calibrant.graph import Graph, load_onnx_graph
from calibrant.modules import example_of, import_torch, load_torch_module
from calibrant.observers import BaseTensorObserver, build_observer, register_calibration_observer
from calibrant.passes.parameter import check_weights
from calibrant.precision import Metric
from calibrant.quantization import OnStep, QuantizationSummary, Samples, check_methods, quantize
from calibrant.quantizers import quantize_graph
from calibrant.settings import QuantizationSetting, QuantizationSettingFactory
from calibrant.sketches import Halves
from calibrant.table import CalibrationTable
from calibrant.table.collecting import METHODS, Checkpoint, collect_table, empty_table

if TYPE_CHECKING:
    import torch

__all__ = [
    "BaseTensorObserver",
    "CalibrationTable",
    "QuantizationSettingFactory",
    "QuantizationSummary",
    "RayCluster",
    "TargetPlatform",
    "TorchExecutor",
    "build_observer",
    "calibrate",
    "export_graph",
    "export_ppq_graph",
    "load_onnx_graph",
    "quantize",
    "quantize_onnx_model",
    "quantize_torch_model",
    "register_calibration_observer",
    "write_report",
]

log = logging.getLogger(__name__)


def quantize_onnx_model(
    onnx_import_file: str | Path,
    calib_dataloader: Samples | None,
    calib_steps: int,
    input_shape: Sequence[int] | None,
    platform: TargetPlatform,
    input_dtype: Any = None,
    inputs: Any = None,
    setting: QuantizationSetting | None = None,
    collate_fn: Callable[[Any], Any] | None = None,
    device: str | None = None,
    verbose: int = 0,
    do_quantize: bool = True,
    metric: Metric | None = None,
) -> Graph:
    """PPQ's entry: load, quantize and calibrate an ONNX model. Returns the quantized graph, for `export_graph`.

    calib_dataloader: samples, or what `collate_fn` makes samples of: see `quantize`. None: where the setting leaves
        activations in float, or with do_quantize False.
    calib_steps: at most so many items of the loader, which is never cycled; any number from 1.
    platform: the runtime that the graph is for. setting: what is done; None: the default.
    input_shape, input_dtype, inputs: what PPQ traces with. Here the model says it; they are checked against the model.
    device: None or "cpu"; "cuda" runs onnxruntime's CUDA provider and is an error where there is none.
    verbose: 1 logs the summary. do_quantize False: the graph is loaded and left in float.
    metric: a measure of the user's own, for the setting's `max_drop`: see `quantize`.

    Raises ModelError for a model that cannot be read or run, DataError for samples or an `input_shape` that do not fit
    it, SettingError for what is not known (a method, a device, a name in the setting), ObservationError where no scale
    can be found, TargetError where the setting's target is out of reach; all are `CalibrantError`.
    """
    graph = load_onnx_graph(onnx_import_file)
    if not do_quantize:
        return graph
    executor = OnnxruntimeExecutor(graph, _providers(device))
    _check_inputs(executor, input_shape, input_dtype, inputs)
    return _quantized(graph, calib_dataloader, calib_steps, platform, setting, collate_fn, executor, verbose, metric)


def quantize_torch_model(
    model: torch.nn.Module,
    calib_dataloader: Samples | None,
    calib_steps: int,
    input_shape: Sequence[int] | None,
    platform: TargetPlatform,
    input_dtype: Any = None,
    setting: QuantizationSetting | None = None,
    collate_fn: Callable[[Any], Any] | None = None,
    inputs: Any = None,
    do_quantize: bool = True,
    onnx_export_file: str | Path | None = None,
    device: str | torch.device | None = None,
    verbose: int = 0,
    metric: Metric | None = None,
) -> Graph:
    """PPQ's entry for PyTorch: export, quantize and calibrate a module. Returns the quantized graph.

    The module is exported as it infers, and is afterwards as it was before. Nodes and values of the graph have the
    names of its modules and parameters: see `calibrant.modules.naming`.
    input_shape, input_dtype: of the one input (or a list of shapes, for several). inputs: instead of them a tensor, a
        tuple in forward's order, or a dict by the names of its parameters. Neither: the first sample is traced with.
        The first axis may be of any size afterwards, the others are as given.
    calib_dataloader, calib_steps, collate_fn, setting, verbose, do_quantize, metric: as for `quantize_onnx_model`. A
        sample holds forward's tensors; tensors may lie on any device.
    onnx_export_file: keep the exported float model there; else nothing is written.
    device: what calibrates: None or "cpu" onnxruntime, "cuda" or "cuda:0" torch on that GPU.

    Raises the errors of `calibrant.core.errors`: SettingError without the extra `calibrant[torch]`, ModelError for a
    module that cannot be exported.
    """
    _check_device(device)  # what is wrong is said before minutes are spent on an export
    platform = TargetPlatform.of(platform)
    check_methods(QuantizationSetting.of(setting))
    check_steps(calib_steps)
    example, samples = example_of(model, inputs, input_shape, input_dtype, calib_dataloader, collate_fn)
    graph = load_torch_module(model, example, onnx_export_file)
    if not do_quantize:
        return graph
    executor = _executor_on(graph, device)
    return _quantized(graph, samples, calib_steps, platform, setting, None, executor, verbose, metric)


def _quantized(
    graph: Graph,
    loader: Samples | None,
    steps: int,
    platform: TargetPlatform,
    setting: QuantizationSetting | None,
    collate_fn: Callable[[Any], Any] | None,
    executor: Executor,
    verbose: int,
    metric: Metric | None,
) -> Graph:
    """What both of PPQ's entries end with."""
    graph, summary = quantize(
        graph,
        loader,
        platform=platform,
        setting=setting,
        steps=steps,
        collate_fn=collate_fn,
        executor=executor,
        metric=metric,
    )
    if verbose:
        log.info("%d values calibrated on %d samples (%s)", summary.values, summary.samples, summary.methods)
    return graph


def export_graph(
    graph: Graph,
    platform: TargetPlatform | str,
    graph_save_to: str | Path,
    config_save_to: str | Path | None = None,
) -> None:
    """Write the quantized graph for its runtime; files appear whole or not at all.

    platform: the one it was quantized for; another is refused, as its configs would not fit.
    config_save_to: where a platform with a file of parameters beside the model puts it.
    Raises StateError for a graph in float and for configs that are not calibrated, ExportError for what the runtime
    cannot express.
    """
    platform = TargetPlatform.of(platform)
    if graph.platform is None and not (graph.configs or graph.edges):
        raise StateError("the graph is in float, and would be written so: quantize it first, with `quantize`")
    if graph.platform is not None and platform is not graph.platform:
        raise StateError(f"the graph was quantized for {graph.platform.name}: quantize it for {platform.name} instead")
    if platform not in EXPORTERS:
        raise SettingError(unknown("export platform", platform.name, [p.name for p in EXPORTERS]))
    EXPORTERS[platform](
        graph,
        Path(graph_save_to),
        Path(config_save_to) if config_save_to is not None else None,
        metadata=graph.provenance,
    )


export_ppq_graph = export_graph


def write_report(
    graph: Graph,
    summary: QuantizationSummary,
    path: str | Path,
    *,
    title: str | None = None,
    facts: Sequence[tuple[str, str]] | None = None,
    samples: int = 8,
    executor: Executor | None = None,
    threads: int | None = None,
    on_step: OnStep | None = None,
) -> None:
    """Write a page, one HTML file, about a quantization: graph and summary as `quantize(..., keep=True)` returns them.

    title, facts: what stands at its top, by default the model's name and what the summary tells. samples: on so many
    of those that the summary keeps each layer is quantized alone, and what that does to the outputs is measured.
    executor: runs the float model; None: onnxruntime. on_step: called with the number of samples measured on.
    Raises SettingError without the extra `calibrant[report]`, ExportError where the file cannot be written.
    """
    pages.require_bokeh()
    analysis = None
    if summary.kept and samples:
        analysis = analyse(graph, summary.kept[:samples], executor=executor, at_outputs=True, on_step=on_step)
    about = pages.Subject(
        title or (graph.path.name if graph.path is not None else "model"),
        summary.table.sketches if summary.table is not None else Halves({}, {}),
        list(dict.fromkeys([*METHODS, *(method.casefold() for method in summary.methods)])),
        summary.facts if facts is None else facts,
        graph,
        analysis=analysis,
    )
    pages.write_report(pages.collect(about, threads or usable_processors()), path)


def calibrate(
    model: str | Path | Graph,
    samples: Samples,
    *,
    platform: TargetPlatform | str = TargetPlatform.ONNXRUNTIME,
    setting: QuantizationSetting | None = None,
    steps: int | None = None,
    collate_fn: Callable[[Any], Any] | None = None,
    methods: Sequence[str] | str = METHODS,
    executor: Executor | None = None,
    threads: int | None = None,
    checkpoint: str | Path | None = None,
    every: int = 64,
    ray: RayCluster | None = None,
    on_step: OnStep | None = None,
) -> CalibrationTable:
    """Run the model once over the samples; return the sketches of every value the platform quantizes.

    model: a file, or a graph that `load_onnx_graph` made. samples, platform, collate_fn, threads: as for `quantize`.
    setting: says which values are quantized, and so are observed; None: the default.
    steps: at most so many items of the samples; None: all.
    methods: what the table must be able to solve, one or several; isotone for the values that carry an order: outputs
        of Softmax that are quantized, else outputs of rank 2.
    executor: what runs the float model, with threads of its own; None: onnxruntime on the CPU.
    checkpoint: a file that is written after `every` samples. Where it is there, the run goes on from it, given the
        same samples in the same order, and ends with the same bytes; it is left when the run is done.
    ray: collect on that cluster. The samples are then files that every node can read, by a path or as
        `calibrant.data.open_samples` opens them, or a ray.data.Dataset with a row for each sample and a column for
        each input. The table is the same.
    on_step: called with the number of samples done.
    Raises as `quantize` does, and ObservationError for a method that needs raw values.
    """
    platform, setting = TargetPlatform.of(platform), QuantizationSetting.of(setting)
    graph = model if isinstance(model, Graph) else load_onnx_graph(model)
    quantize_graph(graph, platform, setting)
    check_weights(graph)
    executor = executor or OnnxruntimeExecutor(graph, threads=threads)
    kept = None if checkpoint is None else Checkpoint(Path(checkpoint), every)
    methods = [methods] if isinstance(methods, str) else methods
    empty = empty_table(graph, platform, methods, executor.description)
    if ray is not None:
        if kept is not None:
            raise SettingError("a run on Ray keeps no checkpoint: Ray does again what is lost; leave checkpoint out")
        return collect_on_ray(ray, graph, empty, samples, executor, steps, collate_fn, on_step)
    feeds = iterate_samples(samples, executor.input_specs, steps, collate_fn)
    return collect_table(empty, feeds, executor, kept, on_step)


def _providers(device: str | None) -> list[str] | None:
    if device in (None, "cpu"):
        return None
    if device is not None and device.split(":")[0] == "cuda":
        return ["CUDAExecutionProvider"]
    raise SettingError(unknown("device", str(device), ["cpu", "cuda"]))


def _check_device(device: Any) -> None:
    """Raise SettingError for a device that is unknown or not there."""
    kind = str(device or "cpu").split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise SettingError(unknown("device", str(device), ["cpu", "cuda"]))
    if kind == "cuda" and not import_torch(f"device '{device}'").cuda.is_available():
        raise SettingError(f"device '{device}': torch finds no CUDA device here; use device='cpu'")


def _executor_on(graph: Graph, device: Any) -> Executor:
    """What runs a module's graph on that device."""
    if str(device or "cpu").split(":")[0] == "cpu":
        return OnnxruntimeExecutor(graph)
    return TorchExecutor(graph, device=str(device))


def _check_inputs(executor: Executor, shape: Sequence[int] | None, dtype: Any, inputs: Any) -> None:
    specs = executor.input_specs
    if inputs is not None and not isinstance(inputs, Mapping):
        inputs = [inputs] if hasattr(inputs, "shape") else inputs
    if inputs is not None:
        next(iterate_samples([inputs], specs, 1))
    if shape is None or len(specs) != 1 or specs[0].shape is None:
        return
    expected = specs[0].shape
    fits = len(shape) == len(expected) and all(
        not isinstance(e, int) or e == s for e, s in zip(expected, shape, strict=True)
    )
    if not fits:
        raise DataError(f"input_shape {list(shape)} does not fit the model's input {specs[0]}")
    if dtype is not None and _dtype_name(dtype) != str(specs[0].dtype):
        raise DataError(f"input_dtype {_dtype_name(dtype)} does not fit the model's input {specs[0]}")


def _dtype_name(dtype: Any) -> str:
    text = getattr(dtype, "__name__", None) or str(dtype)
    return text.removeprefix("torch.")
