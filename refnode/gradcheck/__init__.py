"""Checking a derivative against independent evidence. Knows only callables and arrays.

finite_difference   extrapolated central differences with a measured error estimate
complex_step        derivatives without cancellation, for functions that accept complex numbers
taylor_test         rates of the remainder: evidence, not a verdict
dot_product_test    is this vjp the transpose of that jvp?
verdict             check_gradient: PASS, FAIL, INCONCLUSIVE or ERROR, with a diagnosis
report_formats      write_report: any report as text, JSON, Markdown, a page or JUnit XML
"""
from refnode.gradcheck.complex_step import complex_step_gradient, complex_step_jvp
from refnode.gradcheck.diagnosis import KNOWN_MISTAKES, Mismatch, diagnose
from refnode.gradcheck.dot_product_test import DotProductTest, dot_product_test
from refnode.gradcheck.finite_difference import (FiniteDifference, finite_difference_gradient,
                                                 finite_difference_jvp, finite_difference_sweep)
from refnode.gradcheck.gradient_report import Check, GradientReport, Judgement
from refnode.gradcheck.report_formats import write_report
from refnode.gradcheck.taylor_test import TaylorTest, taylor_test
from refnode.gradcheck.verdict import check_gradient
