"""How numba compiles kernels, without what only functions that Python calls need.

numba makes every function callable on its own: a wrapper for Python, one for C, machine code, and
a runtime that counts references. What kernels call needs none of that, for LLVM takes its code into
the kernel; nor do kernels hold what most passes look for (closures, lists, arrays, exceptions).
20 kernels of all families took 24.9 s of a Zen 4 with numba's own way, and 14.4 s with this one
(2026-11-29, a busy machine); LLVM sees the same functions and makes the same loops of them.

All this leans on numba's insides, so only versions of numba that it was tried with get it:
compiling.py decides.
"""

# numba ships no types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from numba.core.caching import FunctionCache
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.runtime import rtsys
from numba.core.typed_passes import (
    AnnotateTypes,
    IRLegalization,
    NativeLowering,
    NoPythonBackend,
    NopythonTypeInference,
    PreLowerStripPhis,
)
from numba.core.untyped_passes import (
    DeadBranchPrune,
    FixupArgs,
    IRProcessing,
    ReconstructSSA,
    RewriteSemanticConstants,
    TranslateByteCode,
)

_FRONT = (
    TranslateByteCode,
    FixupArgs,
    IRProcessing,
    RewriteSemanticConstants,  # a kernel's arguments, so that
    DeadBranchPrune,  # what it does not do is not compiled
    ReconstructSSA,
    NopythonTypeInference,
    PreLowerStripPhis,
    IRLegalization,
    AnnotateTypes,
)
"""numba's passes up to its own typed form; of its default ones, those that change a kernel."""


class _KernelLibrary(JITCodeLibrary):
    """LLVM's code of one kernel, and its machine code."""

    def add_linking_library(self, library):
        """All but numba's runtime: kernels have no objects."""
        if library is not rtsys.library:
            super().add_linking_library(library)

    def _optimize_functions(self, module):
        """As numba does, but not of declarations, and with passes made once."""
        module.data_layout = self._codegen._data_layout
        passes, builder = self._codegen._function_pass_manager()
        for function in module.functions:
            if not function.is_declaration:
                passes.run(function, builder)


class _PartLibrary(_KernelLibrary):
    """LLVM's code of what kernels call, to be linked into them."""

    def _finalize_final_module(self):
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerKernel(NativeLowering):
    _name = "lower_kernel"

    def run_pass(self, state):
        state.library = _KernelLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return super().run_pass(state)


@register_pass(mutates_CFG=True, analysis_only=False)
class _LowerPart(NativeLowering):
    _name = "lower_part_of_kernels"

    def run_pass(self, state):
        state.library = _PartLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        flags = state.flags
        flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
        super().run_pass(state)
        # callers find the function by a built-in one of its own; this one refuses arguments
        key = list[None]().copy
        state.cr = state.cr._replace(cfunc=key)
        state.targetctx.insert_user_function(key, state.cr.fndesc, [state.library])
        return True


def _passes(lowering):
    made = PassManager("kernel")
    for one in (*_FRONT, lowering, NoPythonBackend):
        made.add_pass(one, one.__name__)
    made.finalize()
    return [made]


class KernelCompiler(CompilerBase):
    """numba's `pipeline_class` of a kernel, which is called by its address alone."""

    def define_pipelines(self):
        return _passes(_LowerKernel)


class PartCompiler(CompilerBase):
    """The same of a function that kernels call, and nobody else."""

    def define_pipelines(self):
        return _passes(_LowerPart)


class KeptCode(FunctionCache):
    """numba's cache on disk, which loads what compiling needs where there is something to compile.

    That is all it knows of lists, arrays and strings, and took 0.1 s of each process that found
    its machine code ready (Zen 4, 2026-11-30: 0.38 instead of 0.48 s with numba's own import). All
    that finished code may call is in the runtime.
    """

    def load_overload(self, sig, target_context):
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            found = self._load_overload(sig, target_context)
            if found is not None:
                return found
        target_context.refresh()
        return None
