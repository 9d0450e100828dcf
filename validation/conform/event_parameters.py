"""torchdiffeq's odeint_event: the time of an event does not depend on the parameters of what it watches.

y' = -k y from y0 falls to the level c at t* = log(y0/c)/k: dt*/dk = -t*/k, dt*/dc = -1/(k c). With the parameters as further
states that do not move the event sees them.
"""
import math

import torch
from torchdiffeq import odeint_event


def run(lifted):
    k, c, y0 = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.75, 0.5, 2.0))
    options = {"rtol": 1e-9, "atol": 1e-9, "method": "dopri5"}
    start = torch.tensor(0.0, dtype=torch.float64)
    if lifted:
        t, _ = odeint_event(lambda t, x: torch.stack([-x[1] * x[0], 0.0 * x[0], 0.0 * x[0]]), torch.stack([y0, k, c]), start,
                            event_fn=lambda t, x: x[0] - x[2], **options)
    else:
        t, _ = odeint_event(lambda t, y: -k * y, y0.reshape(1), start, event_fn=lambda t, y: (y - c)[0], **options)
    t.backward()
    return t.item(), *(0.0 if x.grad is None else x.grad.item() for x in (y0, k, c))


k, c, y0 = 0.75, 0.5, 2.0
at = math.log(y0 / c) / k
print("right: t* %.9f, d/dy0 %.6f, d/dk %.6f, d/dc %.6f" % (at, 1 / (k * y0), -at / k, -1 / (k * c)))
print("parameters where they are used: t* %.9f, d/dy0 %.6f, d/dk %.6f, d/dc %.6f" % run(False))
print("parameters as further states: t* %.9f, d/dy0 %.6f, d/dk %.6f, d/dc %.6f" % run(True))
