"""torchode's BacksolveAdjoint integrates from the last t_eval to the first, not to t_start. y' = -k y, L = y(1), k = 1/2."""
import math

import torch
import torchode


class Decay(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.k = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, t, y):
        return -self.k * y


print(f"right: dL/dy0 {math.exp(-0.5):.9f}, dL/dk {-math.exp(-0.5):.9f}")
for times in ([1.0], [0.5, 1.0], [0.0, 1.0]):
    field = Decay()
    term = torchode.ODETerm(field)
    solver = torchode.BacksolveAdjoint(term, torchode.Dopri5(term), torchode.IntegralController(atol=1e-9, rtol=1e-9, term=term))
    y0 = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    problem = torchode.InitialValueProblem(y0, t_start=torch.zeros(1, dtype=torch.float64), t_end=torch.ones(1, dtype=torch.float64),
                                           t_eval=torch.tensor([times], dtype=torch.float64))
    solver.solve(problem).ys[0, -1, 0].backward()
    print(f"t_start 0, t_eval {times}: dL/dy0 {y0.grad.item():.9f}, dL/dk {field.k.grad.item():.9f}")
