"""The reference problems by id. Not loaded by `import refnode`."""
from refnode.problems import (
    reference_set_classics, reference_set_networks, reference_set_solvable, reference_set_switches, reference_set_traps)

MODULES = (reference_set_solvable, reference_set_classics, reference_set_networks, reference_set_traps,
           reference_set_switches)

REFERENCE_PROBLEMS = {problem.id: problem for module in MODULES for problem in module.PROBLEMS}
