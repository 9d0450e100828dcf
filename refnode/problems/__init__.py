"""Problems: the class, and a catalogue of one for every shipped field."""
from refnode.problems.catalogue import CATALOGUE, CLOSED_FORMS
from refnode.problems.problem import Problem
