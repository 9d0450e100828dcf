"""Is the gradient another program computed right, and if not, what is its mistake? See `check_ode`."""
