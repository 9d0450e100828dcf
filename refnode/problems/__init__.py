"""Problems: the class, and a catalogue of one for every shipped field."""
from refnode.problems.catalogue import CATALOGUE, CLOSED_FORMS
from refnode.problems.problem import Problem


def __getattr__(name):
    """The reference problems and their proven values, which are built when first asked for."""
    if name == "REFERENCE_PROBLEMS":
        from refnode.problems.reference_set import REFERENCE_PROBLEMS
        return REFERENCE_PROBLEMS
    if name == "certified":                     # also the name of the folder of the values
        from refnode.problems.certified import certified
        return certified
    raise AttributeError(f"module 'refnode.problems' has no attribute {name!r}")
