"""Numba's compiler for functions that are only ever compiled into others.

Numba optimises every function it compiles, emits machine code for it, and then links its optimised form into
each caller, where all is optimised again: a loop around bodies within bodies is worked over once a level. Here
what is compiled into something else is typed, lowered and linked, and what is around it, a driver or a
right-hand side, is optimised and emitted, once. That halves the time in which they compile.
"""
from numba import _dynfunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.typed_passes import NativeLowering


class LinkedLibrary(JITCodeLibrary):
    """Code to link into other libraries, as it was lowered."""

    def _optimize_final_module(self):
        pass

    def _finalize_final_module(self):
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class LinkedLowering(NativeLowering):
    """Lowering into a `LinkedLibrary`, under an entry point without an address, which only callers look up."""

    _name = "linked_lowering"

    def run_pass(self, state):
        state.library = LinkedLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        lowered = state["cr"]
        entry = _dynfunc.make_function(lowered.fndesc.lookup_module(), lowered.fndesc.qualname, "", 0,
                                       lowered.env, (state.library,))
        state.targetctx.insert_user_function(entry, lowered.fndesc, [state.library])
        if not state.flags.forceinline:
            body = state.library._final_module.get_function(lowered.fndesc.llvm_func_name)
            body.add_function_attribute("noinline")             # or LLVM inlines what is short before its loops unroll
        state["cr"] = lowered._replace(cfunc=entry)
        return True


class LinkedCompiler(CompilerBase):
    """Numba's pipeline, with `LinkedLowering` in the place of its lowering."""

    def define_pipelines(self):
        manager = PassManager("linked")
        manager.passes = [(LinkedLowering if step is NativeLowering else step, reason) for step, reason
                          in DefaultPassBuilder.define_nopython_pipeline(self.state).passes]
        manager.finalize()
        return [manager]


LINKED = {"pipeline_class": LinkedCompiler, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
