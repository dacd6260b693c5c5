"""Export to PyTorch files: a program of torch.export, or a package compiled by AOTInductor.

Both have the suffix `.pt2`. A program is opened by `torch.export.load(path).module()`. A package holds machine code for
the processor that it was compiled on, and is opened by `torch._inductor.aoti_load_package(path)`.
"""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnzoo_command.steps import step

from ..files import replacing
from . import checking, graphs
from .graphs import ExportError
from .onnx_file import ExportReport
from .options import ExportOptions
from .preparation import Export, check_output, prepare, to_trace
from .tasks import Task

PROGRAMS = ("pt2", "aoti")
# the entry of a program that holds its metadata; a package has a built-in field for metadata
NOTES = "metadata.json"


def export_program(model: nn.Module, output: str | Path, *, form: str = "pt2", **options: Any) -> ExportReport:
    """Exports a model in evaluation mode to a torch program or package; `model` itself is not modified.

    Like an ONNX file, it is compared with eager before it is moved to `output`.

    Args:
        model: maps (B, C, H, W) to (B, classes); a timm model provides its image size and preprocessing.
        output: the file to write, a `.pt2`; its folder is created.
        form: "pt2" for a program of torch.export, "aoti" for a package of AOTInductor for the CPU of this machine.
        options: `task`, `image_size`, `dynamic`, `metadata` and `tolerance` of `ExportOptions`.

    Returns:
        The written file and its difference to eager.

    Raises:
        TypeError: an unknown option.
        ValueError: the model is a detector, the options do not fit the model, the image size is invalid, or the output
            is a folder or has another suffix.
        ExportError: the model cannot be traced, the outputs of the file differ from eager, or there is no C++ compiler
            for a package.
    """
    if form not in PROGRAMS:
        raise ValueError(f"form must be one of {', '.join(PROGRAMS)}, got {form!r}")
    chosen, output = ExportOptions.of(form=form, **options), Path(output)
    check_output(output)
    chosen.check(model, output)
    if form == "aoti":
        _require_compiler()
    made = prepare(model, chosen)

    write = _write_package if form == "aoti" else _write_program
    with tempfile.TemporaryDirectory() as folder:
        # torch uses the file name inside the file
        file = Path(folder) / "model.pt2"
        difference = write(file, made, functools.partial(_compare, cases=made.cases, tolerance=chosen.tolerance))
        content = file.read_bytes()
    with replacing(output) as fresh:
        fresh.write_bytes(content)
    return ExportReport(
        output, len(content), None, made.task.input_size, made.dynamic, difference, made.checked, made.notes
    )


# takes a loaded program or package and its task, and returns their largest difference
_Compare = Callable[[Callable[[Tensor], Any], Task], float]


def _compare(loaded: Callable[[Tensor], Any], task: Task, cases: Sequence[Tensor], tolerance: float) -> float:
    return checking.compare(functools.partial(_run, loaded, task.outputs), task, cases, tolerance)


def _write_program(file: Path, made: Export, compare: _Compare) -> float:
    difference = 0.0
    # the file to keep is written last
    for task in filter(None, (made.revealing(), made.task)):
        step("tracing the model")
        program = graphs.capture(*to_trace(task, made.dynamic), made.dynamic, "a program")
        with graphs.quiet():
            torch.export.save(program, file, extra_files={NOTES: json.dumps(made.notes, sort_keys=True)})
            # check the written file, not the program in memory
            loaded = torch.export.load(file).module()
        difference = max(difference, compare(loaded, task))
    return difference


def _write_package(file: Path, made: Export, compare: _Compare) -> float:
    loaded = compile_package(made.task, made.dynamic, file, made.notes)
    difference = compare(loaded, made.task)
    filled = made.revealing()
    if filled is not None:
        # compiling takes minutes, so the other weights are loaded into the same code
        network, _ = to_trace(filled, made.dynamic)
        tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
        names = [name for name in loaded.get_constant_fqns() if name in tensors]
        loaded.load_constants({name: tensors[name].detach() for name in names}, check_full_update=False)
        difference = max(difference, compare(loaded, filled))
    return difference


def compile_package(task: Task, dynamic: Sequence[str], file: Path, notes: Mapping[str, str]) -> Any:
    """Compiles the network of a task for the CPU of this machine, with parallel branches and norms folded.

    Args:
        task: task with the network to compile.
        dynamic: the dynamic axes, from "batch", "height" and "width".
        file: the package to write, a `.pt2`.
        notes: metadata of the package.

    Returns:
        The loaded package: maps images (B, C, H, W) to the outputs of the network.

    Raises:
        ExportError: the network cannot be traced or compiled.
    """
    _require_compiler()
    step("tracing the model")
    program = graphs.capture(*to_trace(task, dynamic), dynamic, "a package")
    step("compiling the model, which can take minutes")
    try:
        with graphs.quiet(), torch.no_grad():
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(file), inductor_configs={"aot_inductor.metadata": dict(notes)}
            )
            return torch._inductor.aoti_load_package(str(file))
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise ExportError(f"AOTInductor cannot compile {type(task.network).__name__}: {reason}") from error


@torch.no_grad()
def _run(loaded: Callable[[Tensor], Any], outputs: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    try:
        given = loaded(images)
    except Exception as error:
        size = "x".join(map(str, images.shape))
        reason = str(error).strip().split("\n")[0]
        raise ExportError(f"the file cannot be run on images of {size}: {reason}") from error
    return dict(zip(outputs, given if isinstance(given, (tuple, list)) else (given,), strict=True))


def _require_compiler() -> None:
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    # on Windows the search raises a RuntimeError instead
    except (exc.InvalidCxxCompiler, RuntimeError) as error:
        raise ExportError(
            "an AOTInductor package must be compiled, but no C++ compiler was found: install one, such as g++, or set "
            "the environment variable CXX; --format pt2 needs no compiler"
        ) from error
