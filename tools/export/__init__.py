"""Export of models for deployment: a file is kept only if it reproduces the outputs of eager.

`export_onnx` exports any module or detector; `attnzoo export` takes a timm model name or a trained directory. A file
has the input `images` and the outputs of its task. It uses standard operators only, and its metadata holds everything
that a program needs to use the file on its own.
"""

from .graphs import ExportError
from .onnx_file import ExportReport, export_onnx
from .options import ExportOptions
from .programs import export_program
from .sessions import open_session, relative_difference
from .tasks import Classify, Features, Task

__all__ = [
    "Classify",
    "ExportError",
    "ExportOptions",
    "ExportReport",
    "Features",
    "Task",
    "export_onnx",
    "export_program",
    "open_session",
    "relative_difference",
]
