"""Writes the C++ entry point that calls a kernel with its buffers and its position attributes."""

from __future__ import annotations

from tests.support.metal_emulator.errors import CompileError
from tests.support.metal_emulator.source import KernelSource

# Attribute -> member of msl_ids; three components or one.
TRIPLES = {
    "thread_position_in_grid": "position_in_grid",
    "thread_position_in_threadgroup": "position_in_threadgroup",
    "threadgroup_position_in_grid": "threadgroup_position",
    "threads_per_threadgroup": "threadgroup_size",
    "dispatch_threads_per_threadgroup": "dispatched_size",
    "threads_per_grid": "grid_size",
    "grid_size": "grid_size",
    "threadgroups_per_grid": "threadgroups",
}
SINGLES = {
    "thread_index_in_threadgroup": "ids->index_in_threadgroup",
    "simdgroup_index_in_threadgroup": "ids->simdgroup",
    "thread_index_in_simdgroup": "ids->lane",
    "simdgroups_per_threadgroup": "ids->simdgroups",
    "dispatch_simdgroups_per_threadgroup": "ids->dispatched_simdgroups",
    "threads_per_simdgroup": "32u",
    "thread_execution_width": "32u",
    "quadgroup_index_in_threadgroup": "ids->index_in_threadgroup / 4",
    "thread_index_in_quadgroup": "ids->index_in_threadgroup % 4",
    "quadgroups_per_threadgroup": "(ids->simdgroups * 8)",
    "dispatch_quadgroups_per_threadgroup": "(ids->dispatched_simdgroups * 8)",
}

_TEMPLATE = """
#line 1 "entry point"
extern "C" void msl_kernel_call(void** buffers, const msl_ids* ids) {{
  {name}{arguments}({call});
}}
extern "C" msl_entry_fn msl_kernel_entry(void) {{ return msl_kernel_call; }}
"""


def entry_point(source: KernelSource) -> str:
    """The text that follows the kernel."""
    call = []
    for parameter in source.parameters:
        if parameter.index is not None:
            kind = "Value" if parameter.type.endswith("&") else "Pointer"
            call.append(f"msl::{kind}{{buffers[{parameter.index}]}}")
        elif parameter.attribute in TRIPLES:
            call.append(f"msl::triple(ids->{TRIPLES[parameter.attribute]})")
        elif parameter.attribute in SINGLES:
            call.append(SINGLES[parameter.attribute])
        elif parameter.attribute == "grid_origin":
            call.append("msl::Triple{}")
        else:
            raise CompileError(f"the emulator does not know [[{parameter.attribute}]]")
    return _TEMPLATE.format(
        name=source.name, arguments=source.template_arguments, call=", ".join(call)
    )
