"""CVODES' adjoint has an absolute tolerance that does not know the loss's scale. y' = -y sin(t) + p cos(3t), L = s y(6).

The gradient divided by s must not depend on s.
"""
import casadi

t, y, p = casadi.SX.sym("t"), casadi.SX.sym("y"), casadi.SX.sym("p")
tol = 1e-9
solve = casadi.integrator("solve", "cvodes", {"t": t, "x": y, "p": p, "ode": -y * casadi.sin(t) + p * casadi.cos(3 * t)}, 0.0, 6.0,
                          {"reltol": tol, "abstol": tol})
x = casadi.MX.sym("x", 2)
state = solve(x0=x[0], p=x[1])["xf"]
forward = casadi.Function("f", [x], [casadi.jtimes(state, x, casadi.MX(casadi.DM.eye(2)))])([1.0, 1.0])
print(f"forward sensitivities: dy/dy0 {float(forward[0]):.9f}, dy/dp {float(forward[1]):.9f}")
for power in (0, -10, -20, -30, -40):
    gradient = casadi.Function("g", [x], [casadi.gradient(2.0 ** power * state, x)])([1.0, 1.0]) / 2.0 ** power
    print(f"s = 2^{power}: dL/dy0 / s {float(gradient[0]):.9f}, dL/dp / s {float(gradient[1]):.9f}")
