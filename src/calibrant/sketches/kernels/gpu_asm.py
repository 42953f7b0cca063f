"""What the kernels in Gluon need to run assembly over their program's shared memory."""

# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

barrier = gl.barrier if hasattr(gl, "barrier") else gl.thread_barrier  # its name before Triton 3.7


@gluon.jit
def shared_memory(scalar):
    """Its address. scalar: any."""
    return gl.inline_asm_elementwise("mov.u32 $0, global_smem;", "=r,r", [scalar], gl.int32, is_pure=False, pack=1)


# What comes after may be launched as soon as there is room for it, and this waits for all that came before: until then,
# it may not touch what others do, but make its shared memory ready.
WAIT_FOR_OTHERS = "griddepcontrol.launch_dependents; griddepcontrol.wait;"


@gluon.jit
def once(ASM: gl.constexpr, each):
    """Run assembly once for each thread. each: a number for each thread."""
    gl.inline_asm_elementwise(ASM, "=r,r", [each], gl.int32, is_pure=False, pack=1)


@gluon.jit
def word(address, PLACE: gl.constexpr, K: gl.constexpr):
    """The word PLACE words after K.misc, the same for all threads."""
    return gl.inline_asm_elementwise(
        "ld.shared.u32 $0, [$1];", "=r,r", [address + 4 * (K.misc + PLACE)], gl.int32, is_pure=False, pack=1
    )
