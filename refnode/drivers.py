"""All drivers of the package by name, and compiling them beforehand.

A process that compiles two drivers compiles the bodies in both once. So drivers that share most of their bodies
stand in one group, and a group is compiled by one process.
"""
import contextlib
import os
import time

from refnode.beforehand import cache_takes_files, compiling, cycles_kept, missing_drivers, prepare_next

GROUPS = (                  # the longest first
    ("refnode.sensitivity.through:through_tangent",
     "refnode.sensitivity.through_adjoint:through_adjoint",
     "refnode.sensitivity.attempts:record_attempts"),
    ("refnode.sensitivity.equations:integrate_interpolated",
     "refnode.sensitivity.equations:integrate_lam",
     "refnode.sensitivity.equations:integrate_backsolve"),
    ("refnode.sensitivity.checkpointing:checkpointed_adjoint",
     "refnode.sensitivity.checkpointing:integrate_with_checkpoints",
     "refnode.sensitivity.symplectic_adjoint:symplectic_adjoint"),
    ("refnode.sensitivity.forward:integrate_variational",
     "refnode.sensitivity.forward:integrate_staggered",
     "refnode.sensitivity.quadrature:sum_panels"),
    ("refnode.sensitivity.reversible_adjoint:reversible_adjoint",
     "refnode.sensitivity.reversible_adjoint:reversible_tangent",
     "refnode.solve.reversible_path:integrate_reversible"),
    ("refnode.sensitivity.discrete_adjoint:discrete_adjoint",
     "refnode.sensitivity.discrete_adjoint:discrete_tangent",
     "refnode.sensitivity.tangent_check:check_tangent",
     "refnode.sensitivity.cotangents:slopes_at"),
    ("refnode.solve.integrate:integrate_field",),
)
SECOND_ORDER_GROUPS = (
    ("refnode.sensitivity.second_order_adjoint:integrate_second_adjoint",),
    ("refnode.sensitivity.second_order_steps:discrete_adjoint_tangent",),
)
BATCH_GROUPS = (            # which no evidence uses
    ("refnode.solve.samples:integrate_samples",
     "refnode.sensitivity.batch_sweep:discrete_adjoint_samples"),
)
FIRST_ORDER_DRIVERS, SECOND_ORDER_DRIVERS, BATCH_DRIVERS = (
    tuple(name for group in groups for name in group) for groups in (GROUPS, SECOND_ORDER_GROUPS, BATCH_GROUPS))
ALL_DRIVERS = FIRST_ORDER_DRIVERS + SECOND_ORDER_DRIVERS + BATCH_DRIVERS

POLL = 0.25                 # seconds between looks at what is there
MOST_WORKERS = 4


def usable_cpus():
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def spare_cpus():
    """Processors that other processes may use beside this one."""
    return min(usable_cpus() - 1, MOST_WORKERS)


@contextlib.contextmanager
def compiled_beside(groups):
    """While the body runs, processes fill the disk cache with the drivers it lacks, in the order of the groups.

    Yields ``awaited(names)``, the set of the drivers named that are still to come, and ``help_out()``, for when there
    is nothing to do without them: compile a group, or wait a little where none is left. The fewer the processes, the
    fewer bodies are compiled twice: one a processor, this one among them. What they fail to do is done where it is
    needed.
    """
    missing = [tuple(missing_drivers(group)) for group in groups]
    missing = [group for group in missing if group]
    if sum(map(len, missing)) < 2 or not cache_takes_files():
        yield lambda names: set(), lambda: None
        return
    with cycles_kept(), compiling(missing, max(spare_cpus(), 1)) as (children, source):
        to_come = {name for group in missing for name in group}

        def awaited(names):
            if all(child.poll() is not None for child in children):
                to_come.clear()
            asked = to_come.intersection(names)
            there = asked.difference(missing_drivers(asked))
            to_come.difference_update(there)
            return asked - there

        def help_out():
            if not prepare_next(source):
                time.sleep(POLL)
        yield awaited, help_out


def compile_all():
    """Fill the disk cache with every driver."""
    with compiled_beside(GROUPS + SECOND_ORDER_GROUPS + BATCH_GROUPS) as (awaited, help_out):
        while awaited(ALL_DRIVERS):
            help_out()
