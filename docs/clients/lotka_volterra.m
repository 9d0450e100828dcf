% Lotka-Volterra in Octave: a refnode problem on standard input, its answer on standard output. octave-cli lotka_volterra.m
% Runge-Kutta steps and their transpose, both by hand: the steps given, or else 4096 or so of the classical method.
1;
function dy = f (y, p)
  dy = [p(1)*y(1) - p(2)*y(1)*y(2); p(4)*y(1)*y(2) - p(3)*y(2)];
end
function [y_bar, p_bar] = f_vjp (y, p, w)            % (df/dy)' w and (df/dp)' w
  y_bar = [p(1) - p(2)*y(2), p(4)*y(2); -p(2)*y(1), p(4)*y(1) - p(3)] * w;
  p_bar = [y(1)*w(1); -y(1)*y(2)*w(1); -y(2)*w(2); y(1)*y(2)*w(2)];
end
function text = row (x)
  text = ["[", strjoin(arrayfun (@(v) sprintf ("%.17g", v), x(:)', "UniformOutput", false), ", "), "]"];
end

problem = jsondecode (fread (stdin, Inf, "char=>char")');
known = {"theta[0]*y[0] - theta[1]*y[0]*y[1]"; "theta[3]*y[0]*y[1] - theta[2]*y[1]"};
if (! (isfield (problem.rhs, "expr") && isequal (problem.rhs.expr, known) && strcmp (problem.loss.kind, "sumsq")))
  error ("only Lotka-Volterra with squares for a loss, not %s", problem.id);
end
p = problem.theta;  t0 = problem.t0;  t1 = problem.t1;  ts = problem.ts;
if (isempty (ts)) ts = t1; end                       % one observation, at the end
data = reshape ([problem.loss.data, zeros(2, isempty (problem.loss.data)*numel (ts))], 2, []);
scale = 1;  if (isfield (problem.loss, "scale")) scale = problem.loss.scale; end
fixed = isfield (problem, "solver") && strcmp (problem.solver.mode, "fixed");
if (fixed)
  A = problem.solver.tableau.A;  b = problem.solver.tableau.b;  h = problem.solver.steps;
else
  A = [0 0 0 0; 0.5 0 0 0; 0 0.5 0 0; 0 0 1 0];  b = [1; 2; 2; 1]/6;
  gap = diff ([t0; ts; t1]);  count = ceil (4096*gap/(t1 - t0));             % equal steps between observations
  h = repelem (gap./max (count, 1), count);
end

s = numel (b);  N = numel (h);  t = [t0; t0 + cumsum(h)];
y = [problem.y0, zeros(2, N)];  z = zeros (2, s, N);  k = zeros (2, s);
for n = 1:N                                          % k_i = f(z_i), z_i = y + h sum_j a_ij k_j
  for i = 1:s
    z(:,i,n) = y(:,n) + h(n)*(k(:,1:i-1)*A(i,1:i-1)');
    k(:,i) = f (z(:,i,n), p);
  end
  y(:,n+1) = y(:,n) + h(n)*(k*b);
end
ys = zeros (2, numel (ts));  y_bar = zeros (2, 1);  p_bar = zeros (4, 1);  z_bar = zeros (2, s);
for n = N+1:-1:1                                     % the transpose of the step from t(n), then the observations at t(n)
  for i = s*(n <= N):-1:1                            % z_bar_i = (df/dy)' h (b_i y_bar + sum_j a_ji z_bar_j)
    [z_bar(:,i), more] = f_vjp (z(:,i,n), p, h(n)*(b(i)*y_bar + z_bar(:,i+1:s)*A(i+1:s,i)));
    p_bar += more;
  end
  y_bar += (n <= N)*sum (z_bar, 2);
  for m = find (abs (ts(:)' - t(n)) <= 1e-9*abs (t1 - t0))
    ys(:,m) = y(:,n);  y_bar += scale*2*(ys(:,m) - data(:,m));
  end
end
printf ('{"format": "refnode.answer", "version": 1, "problem_sha256": "%s", "tool": {"name": "Octave client"},\n', problem.sha256);
printf (' "truth": "%s", "loss": %.17g, "y": [%s, %s],\n', {"exact", "discrete_frozen"}{fixed + 1}, scale*sum (sum ((ys - data).^2)), ...
        row (ys(1,:)), row (ys(2,:)));
printf (' "grad": {"y0": %s, "theta": %s}}\n', row (y_bar), row (p_bar));
