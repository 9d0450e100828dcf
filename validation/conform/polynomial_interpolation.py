"""CVODES' adjoint with interpolation_type='polynomial', where t0 is not 0. y' = -k y, k = 5/8, y(t0) = 3/2, L = y(t0 + 11/4)^2.

Right, whatever t0 is: dL/dy0 = 2 y0 exp(-2 k T), dL/dk = -2 T y0^2 exp(-2 k T).
"""
import math

import casadi

y, k = casadi.SX.sym("y"), casadi.SX.sym("k")
T, tol, decayed = 2.75, 1e-9, math.exp(-2 * 0.625 * 2.75)
print(f"right: {3 * decayed:.9f}, {-2 * T * 2.25 * decayed:.9f}")
for t0 in (0.0, 0.25, 1.0, 100.0):
    found = []
    for kind in ("hermite", "polynomial"):
        solve = casadi.integrator("solve", "cvodes", {"x": y, "p": k, "ode": -k * y}, t0, t0 + T,
                                  {"reltol": tol, "abstol": tol, "interpolation_type": kind})
        x = casadi.MX.sym("x", 2)
        state = solve(x0=x[0], p=x[1])["xf"]
        gradient = casadi.Function("g", [x], [casadi.gradient(state**2, x)])([1.5, 0.625])
        found.append(f"{kind} {float(gradient[0]):.9g}, {float(gradient[1]):.9g}")
    print(f"t0 = {t0:g}: " + "; ".join(found))
