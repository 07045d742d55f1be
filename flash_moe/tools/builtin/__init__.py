"""Built-in tools.

``shell(directory)``, ``read_file(root)`` and ``list_files(root)`` return a tool for a directory;
``calculate``, ``get_time`` and ``convert_units`` are tools. The demo model was trained on their
names, parameters and results (`scripts/demo_model/`).
"""

from flash_moe.tools.builtin.calculator import calculate
from flash_moe.tools.builtin.clock import get_time
from flash_moe.tools.builtin.files import list_files, read_file
from flash_moe.tools.builtin.shell_command import shell
from flash_moe.tools.builtin.units import convert_units

__all__ = ["calculate", "convert_units", "get_time", "list_files", "read_file", "shell"]
