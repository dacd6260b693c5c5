"""Models as files for deployment: traced, cleaned, run in ONNX Runtime against eager, and only then kept.

`export_onnx` does it for any module and for detectors, `attnzoo export` for a name of timm or a trained directory. A
file takes `images` and gives what its task names; it is made of standard operators, and its metadata says what a
program needs that only has the file.
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
