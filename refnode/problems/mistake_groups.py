"""Keys of known mistakes that whole kinds of problem expose."""

# Several observations of a smooth problem.
OBSERVED = ("sign", "factor_two", "factor_half", "mean_for_sum", "interior_jumps_missing", "last_jump_missing",
            "last_jump_doubled", "transposed_jacobian", "stops_at_first_observation", "component_term_dropped",
            "permuted_parameters", "parameter_captured", "single_precision", "zero_gradient")

# One observation, at the end.
TERMINAL = ("sign", "factor_two", "factor_half", "last_jump_missing", "last_jump_doubled", "transposed_jacobian",
            "component_term_dropped", "permuted_parameters", "parameter_captured", "single_precision", "zero_gradient",
            "t0_gradient_sign", "t1_gradient_missing")

# A right-hand side or a loss that depends on time.
TIMED = ("t0_gradient_sign", "t1_gradient_missing", "loss_time_derivative_missing")
