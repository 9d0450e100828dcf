"""Numba's compiler for functions that are compiled into others, and for those they are compiled into.

Numba optimises every function it compiles, emits machine code for it, and then links its optimised form into
each caller, where all is optimised again: a loop around bodies within bodies is worked over once a level. Here
what is compiled into something else is typed and lowered, no more, and what is around it, a driver or a
right-hand side, links each body once, and is optimised and emitted, once. That halves the time in which they compile.
"""
import contextlib
import gc
import sys

import llvmlite.binding as llvm
from numba import _dynfunc
from numba.core import config
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.typed_passes import NativeLowering


@contextlib.contextmanager
def cycles_kept():
    """Without the collection of cycles, a seventh of the time: what compilers make lives as long as the process."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def make_ready():
    """Import what Numba compiles array functions with; a fifth of a second less than if Numba did.

    It imports SciPy's linear algebra for no more than to know that it is there. What needs that asks again.
    """
    if "numba.np.arraymath" not in sys.modules:
        from numba.np import linalg
        asks, linalg.ensure_blas = linalg.ensure_blas, lambda: None
        try:
            from numba.np import arraymath
        finally:
            linalg.ensure_blas = asks
        arraymath.ensure_blas = asks


class LinkedLibrary(JITCodeLibrary):
    """Code to link into other libraries, as it was lowered, beside what it calls."""

    is_outlined = False

    def add_ir_module(self, ir_module):
        for function in ir_module.functions:
            if self.is_outlined and not function.is_declaration:
                function.attributes.add("noinline")             # or LLVM inlines what is short before its loops unroll
        super().add_ir_module(ir_module)

    def _optimize_functions(self, ll_module):
        ll_module.data_layout = self._codegen._data_layout

    def finalize(self):
        self._raise_if_finalized()
        self._finalize_dynamic_globals()
        self._finalized = True

    def with_what_it_calls(self):
        """All libraries that one which calls this must link."""
        return [self, *dict.fromkeys(self._linking_libraries)]


class OuterLibrary(JITCodeLibrary):
    """Code that the others are linked into: LLVM inlines what must be inlined while it optimises, and not before."""

    def _optimize_functions(self, ll_module):
        ll_module.data_layout = self._codegen._data_layout

    def tuning(self):
        """What LLVM is to do."""
        tuning = llvm.create_pipeline_tuning_options(speed_level=config.OPT)
        tuning.loop_vectorization, tuning.slp_vectorization = config.LOOP_VECTORIZE, config.SLP_VECTORIZE
        return tuning

    def _optimize_final_module(self):
        builder = llvm.create_pass_builder(self._codegen._tm, self.tuning())
        builder.getModulePassManager().run(self._final_module, builder)


class DriverLibrary(OuterLibrary):
    """Loops are vectorised and no longer: the rest would be a third of a driver's code, for loops over short states."""

    def tuning(self):
        tuning = super().tuning()
        tuning.loop_unrolling = tuning.loop_interleaving = False
        return tuning


@register_pass(mutates_CFG=True, analysis_only=False)
class LinkedLowering(NativeLowering):
    """Lowering into a `LinkedLibrary`, under an entry point without an address, which only callers look up."""

    _name = "linked_lowering"

    def run_pass(self, state):
        state.library = LinkedLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.is_outlined, state.flags.no_compile = not state.flags.forceinline, True
        super().run_pass(state)
        lowered = state["cr"]
        entry = _dynfunc.make_function(lowered.fndesc.lookup_module(), lowered.fndesc.qualname, "", 0,
                                       lowered.env, (state.library,))
        state.targetctx.insert_user_function(entry, lowered.fndesc, state.library.with_what_it_calls())
        state["cr"] = lowered._replace(cfunc=entry)
        return True


@register_pass(mutates_CFG=True, analysis_only=False)
class OuterLowering(NativeLowering):
    """Lowering into an `OuterLibrary`."""

    _name = "outer_lowering"
    library = OuterLibrary

    def run_pass(self, state):
        state.library = self.library(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        return super().run_pass(state)


@register_pass(mutates_CFG=True, analysis_only=False)
class DriverLowering(OuterLowering):
    """Lowering into a `DriverLibrary`."""

    _name = "driver_lowering"
    library = DriverLibrary


@register_pass(mutates_CFG=True, analysis_only=False)
class DisjointLowering(DriverLowering):
    """The same for a driver whose arrays do not overlap: what LLVM holds in registers it need not load again after a store
    to another array. `tests/test_disjoint.py` holds the callers to it."""

    _name = "disjoint_lowering"

    def run_pass(self, state):
        state.flags.noalias = True
        return super().run_pass(state)


IDLE = frozenset({          # passes of Numba that find nothing to do in bodies, which have neither closures nor array expressions
    "with_lifting", "inline_closure_likes", "make_function_op_code_to_jit_function", "inline_inlinables", "find_literally",
    "literal_unroll", "inline_overloads", "nopython_rewrites", "dump_parfor_diagnostics"})


class _Compiler(CompilerBase):
    """Numba's pipeline without what is idle, and with another lowering in the place of its own."""

    def __init__(self, *arguments):
        make_ready()
        super().__init__(*arguments)

    def define_pipelines(self):
        manager = PassManager(self.lowering._name)
        manager.passes = [(self.lowering if step is NativeLowering else step, reason) for step, reason
                          in DefaultPassBuilder.define_nopython_pipeline(self.state).passes if step._name not in IDLE]
        manager.finalize()
        return [manager]


class LinkedCompiler(_Compiler):
    lowering = LinkedLowering


class OuterCompiler(_Compiler):
    lowering = OuterLowering


class DriverCompiler(_Compiler):
    lowering = DriverLowering


class DisjointCompiler(_Compiler):
    lowering = DisjointLowering


LINKED = {"pipeline_class": LinkedCompiler, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
OUTER = {"pipeline_class": OuterCompiler, "no_cfunc_wrapper": True}
OF_A_DRIVER = {"pipeline_class": DriverCompiler, "no_cfunc_wrapper": True}
DISJOINT = {**OF_A_DRIVER, "pipeline_class": DisjointCompiler}
