"""Compilers that leave out what is idle give the code of those that do not."""
import stubs

INSTRUCTIONS = """
import re, sys
from numba.core.codegen import CPUCodeLibrary
from refnode import linked_bodies
if sys.argv[1:] == ["all"]:
    linked_bodies.IDLE = frozenset()
    linked_bodies.OuterLibrary._optimize_functions = CPUCodeLibrary._optimize_functions
from refnode.sensitivity.cotangents import slopes_at
finalize = linked_bodies.OuterLibrary.finalize
def told(self):
    finalize(self)
    for line in self.get_asm_str().splitlines():
        if re.match(r"\\t[a-z]", line):
            print(line.split()[0])
linked_bodies.OuterLibrary.finalize = told
slopes_at.prepare()
"""


def test_passes_left_out_change_no_instruction(tmp_path):
    """Of a driver with formulas, a body, loops, and calls by address, compiled by a process each."""
    lean, whole = (stubs.python(f"import sys; sys.argv[1:] = {arguments}\n{INSTRUCTIONS}", timeout=300.0,
                                NUMBA_CACHE_DIR=tmp_path / name).stdout.split()
                   for name, arguments in (("lean", []), ("whole", ["all"])))
    assert len(lean) > 500 and lean == whole
