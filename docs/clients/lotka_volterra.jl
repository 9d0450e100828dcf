# Lotka-Volterra in Julia: a refnode problem on standard input, its answer on standard output. julia lotka_volterra.jl
# Needs Julia 1.6 and the package JSON. Runge-Kutta steps and their transpose, both by hand: the steps given, or else 16384 or so
# of the classical method. It has never been run: refnode's tests run the same program in C++ and Octave, not this one.
import JSON

f(y, p) = [p[1]*y[1] - p[2]*y[1]*y[2], p[4]*y[1]*y[2] - p[3]*y[2]]
f_vjp(y, p, w) = ([(p[1] - p[2]*y[2])*w[1] + p[4]*y[2]*w[2], -p[2]*y[1]*w[1] + (p[4]*y[1] - p[3])*w[2]],      # (df/dy)' w
                  [y[1]*w[1], -y[1]*y[2]*w[1], -y[2]*w[2], y[1]*y[2]*w[2]])                                   # (df/dp)' w
columns(rows) = reduce(hcat, [Float64.(row) for row in rows])      # a list of lists, each a column
plain(x) = isfinite(x) ? x : isnan(x) ? "NaN" : x > 0 ? "Infinity" : "-Infinity"      # JSON has no word for these

const KNOWN = ["theta[0]*y[0] - theta[1]*y[0]*y[1]", "theta[3]*y[0]*y[1] - theta[2]*y[1]"]

function answer(problem)
    p, t0, t1 = Float64.(problem["theta"]), Float64(problem["t0"]), Float64(problem["t1"])
    ts = Float64.(something(get(problem, "ts", nothing), [t1]))    # one observation, at the end
    data = permutedims(columns(something(get(problem["loss"], "data", nothing), [zero(ts), zero(ts)])))
    scale = get(problem["loss"], "scale", 1.0)
    solver = get(problem, "solver", Dict("mode" => "tolerance"))
    fixed = solver["mode"] == "fixed"
    if fixed
        A, b, h = permutedims(columns(solver["tableau"]["A"])), Float64.(solver["tableau"]["b"]), Float64.(solver["steps"])
    else
        A, b, h = [0 0 0 0; 0.5 0 0 0; 0 0.5 0 0; 0 0 1.0 0], [1, 2, 2, 1]/6, Float64[]
        for gap in filter(!iszero, diff([t0; ts; t1]))             # equal steps between observations
            count = ceil(Int, 16384*gap/(t1 - t0))
            append!(h, fill(gap/count, count))
        end
    end
    s, N, t = length(b), length(h), [t0; t0 .+ cumsum(h)]
    y, z = [Float64.(problem["y0"])], [Vector{Vector{Float64}}(undef, s) for _ in h]
    for n in 1:N                                                   # k_i = f(z_i), z_i = y + h sum_j a_ij k_j
        k = Vector{Vector{Float64}}(undef, s)
        for i in 1:s
            z[n][i] = y[n] + h[n]*sum((A[i, j]*k[j] for j in 1:i-1); init = zeros(2))
            k[i] = f(z[n][i], p)
        end
        push!(y, y[n] + h[n]*sum(b[i]*k[i] for i in 1:s))
    end
    ys, y_bar, p_bar = zeros(2, length(ts)), zeros(2), zeros(4)
    for n in N+1:-1:1                                              # the transpose of the step from t[n], then the observations there
        z_bar = [zeros(2) for _ in 1:s]
        for i in (n <= N ? s : 0):-1:1                             # z_bar_i = (df/dy)' h (b_i y_bar + sum_j a_ji z_bar_j)
            w = h[n]*(b[i]*y_bar + sum((A[j, i]*z_bar[j] for j in i+1:s); init = zeros(2)))
            z_bar[i], more = f_vjp(z[n][i], p, w)
            p_bar += more
        end
        y_bar += sum(z_bar)
        for m in findall(abs.(ts .- t[n]) .<= 1e-9*abs(t1 - t0))
            ys[:, m] = y[n];  y_bar += scale*2*(y[n] - data[:, m])
        end
    end
    Dict("format" => "refnode.answer", "version" => 1, "problem_sha256" => problem["sha256"], "tool" => Dict("name" => "Julia client"),
         "truth" => fixed ? "discrete_frozen" : "exact", "loss" => plain(scale*sum((ys - data).^2)), "y" => [plain.(ys[1, :]), plain.(ys[2, :])],
         "grad" => Dict("y0" => plain.(y_bar), "theta" => plain.(p_bar)))
end
problem = JSON.parse(read(stdin, String))
get(problem["rhs"], "expr", nothing) == KNOWN && problem["loss"]["kind"] == "sumsq" || error("only Lotka-Volterra with squares for a loss")
println(JSON.json(answer(problem)))
