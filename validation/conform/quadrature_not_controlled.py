"""CVODES' adjoint leaves the parameter integral out of its error control. y' = -3y/2 + u(t), where u is a ramp that turns down
at t = s: u = 2t before, 2s - 3(t - s) after. Right: dy(2)/ds = 10/3 (1 - exp(-3(2 - s)/2)).
"""
import math

import casadi

t, y, s = casadi.SX.sym("t"), casadi.SX.sym("y"), casadi.SX.sym("s")
rate = -1.5 * y + casadi.if_else(t < s, 2 * t, 2 * s - 3 * (t - s))
at = 0.71875
print(f"right {10 / 3 * (1 - math.exp(-1.5 * (2 - at))):.9f}")
for tol in (1e-3, 1e-6, 1e-9, 1e-12):
    found = []
    for more in ({}, {"quad_err_con": True}):
        solve = casadi.integrator("solve", "cvodes", {"t": t, "x": y, "p": s, "ode": rate}, 0.125, 2.0,
                                  {"reltol": tol, "abstol": tol, **more})
        p = casadi.MX.sym("p")
        loss = solve(x0=1.0, p=p)["xf"]
        found.append(float(casadi.Function("g", [p], [casadi.gradient(loss, p)])(at)))
    print(f"tol {tol:g}: default {found[0]:.9f}, quad_err_con=True {found[1]:.9f}")
