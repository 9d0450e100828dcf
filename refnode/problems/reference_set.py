"""The reference problems by id. Not loaded by `import refnode`."""
from refnode.problems import reference_set_classics, reference_set_networks, reference_set_solvable

MODULES = (reference_set_solvable, reference_set_classics, reference_set_networks)

REFERENCE_PROBLEMS = {problem.id: problem for module in MODULES for problem in module.PROBLEMS}
