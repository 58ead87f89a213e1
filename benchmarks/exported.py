"""The encoder in other runtimes: exported by torch.onnx, run by onnxruntime and by OpenVINO, in float32."""

import contextlib
import importlib
import io
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

PACKAGES = {"onnxruntime": ("onnx", "onnxscript", "onnxruntime"), "OpenVINO": ("onnx", "onnxscript", "openvino")}


def missing(runtime: str) -> str | None:
    """Which package a runtime lacks, None where it has all."""
    for name in PACKAGES[runtime]:
        try:
            importlib.import_module(name)
        except ImportError:
            return name
    return None


def exported(port: nn.Module, pixels: Tensor, threads: int) -> dict[str, Callable[[], Tensor]]:
    """Of each runtime that is installed, a function without arguments that runs `port` on these pixels."""
    runs: dict[str, Callable[[], Tensor]] = {}
    names = [name for name in PACKAGES if missing(name) is None]
    if not names:
        return runs
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.onnx"
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # of torch.onnx's own
            warnings.simplefilter("ignore")
            torch.onnx.export(port, (pixels,), path, dynamo=True, verbose=False)
        for name in names:
            runs[name] = {"onnxruntime": _onnxruntime, "OpenVINO": _openvino}[name](path, pixels, threads)
    return runs


def _onnxruntime(path: Path, pixels: Tensor, threads: int) -> Callable[[], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: pixels.numpy()}
    return lambda: torch.from_numpy(session.run(None, given)[0])


def _openvino(path: Path, pixels: Tensor, threads: int) -> Callable[[], Tensor]:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    model = openvino.compile_model(path, "CPU", settings)
    given = pixels.numpy()
    return lambda: torch.from_numpy(model(given)[0])
