"""The table that `refnode methods` prints: every sensitivity recipe, what it computes, what it costs, when not to use it."""
import textwrap
import typing

from refnode.sensitivity.recipes import RECIPES

LEGEND = ("N steps of s stages; n states, p parameters; c checkpoints; M steps of the adjoint solve, which has its own "
          "error control. Costs are beside the forward solve, memory is what is held of it. f, f_jvp and f_vjp count as "
          "one evaluation each.")


class Account(typing.NamedTuple):
    """What a recipe costs in evaluations, how its memory grows, and when not to use it."""

    cost: str
    memory: str
    avoid: str


ACCOUNTS = {
    "forward": Account("(n + p) s N f_jvp", "O(n (n + p))", "many parameters: the cost grows with n + p"),
    "discrete_forward": Account("(n + p) (s + 1) N f_jvp", "O(n s N)", "many parameters; loose steps: exact for the "
                                "steps, not for the solution"),
    "discrete": Account("s N f_vjp", "O(n s N)", "more steps than memory holds; loose steps, where it warns"),
    "checkpointed": Account("s N f_vjp, t(N, c) steps again", "O(n c)", "memory is enough for `discrete`, which is "
                            "faster and gives the same bits"),
    "online": Account("s N f_vjp, at most r(N, c) N steps again", "O(n c)", "N is known, as with n_steps: `checkpointed` "
                      "takes fewer steps again"),
    "sqrt": Account("s N f_vjp, N to 2 N steps again", "O(n s sqrt N)", "memory is scarcer still: `checkpointed`"),
    "symplectic": Account("s N (f + f_vjp)", "O(n N)", "slopes fit into memory: `discrete` needs no f again"),
    "reversible": Account("s N (f + f_vjp)", "O(n)", "damped or stiff problems, where undoing drifts; see stats['drift_ulp']"),
    "backsolve_plain": Account("s M (f + f_vjp)", "O(n)", "stiff, dissipative or chaotic problems: y cannot be solved back; "
                               "it warns"),
    "backsolve_checkpointed": Account("s M (f + f_vjp)", "O(n c)", "stiff problems: y drifts between checkpoints; it warns"),
    "backsolve": Account("s M (f + f_vjp)", "O(n K), the K observations", "stiff, dissipative or chaotic problems with few "
                         "observations; it warns"),
    "interpolating": Account("s M f_vjp", "O(n s N)", "you need the derivative of the numbers computed: `discrete`"),
    "quadrature": Account("s M f_vjp, and 15 a panel", "O(n s (N + M))", "p is small: the augmented integral costs no more"),
    "gauss": Account("s M f_vjp, and some a step", "O(n s N)", "an integrand that the steps of lambda do not resolve (hidden "
                     "forcing): no error estimate"),
    "gauss_kronrod": Account("s M f_vjp, and 15 a panel", "O(n s N)", "p is small: the augmented integral costs no more"),
    "through_forward": Account("(n + p + 2 + K) s N f_jvp", "O(n s N)", "you want the gradient of the solution: this one "
                               "contains the noise of the step control"),
    "through": Account("s N f_vjp, rejected steps again", "O(n s N)", "you want the gradient of the solution, or optimise: "
                       "`discrete`; this is what finite differences of an adaptive program see"),
}


def methods_text(width=100):
    """The table as text, a paragraph for each recipe."""
    paragraphs = [textwrap.fill(LEGEND, width)]
    for name, recipe in RECIPES.items():
        account = ACCOUNTS[name]
        parts = [recipe.equation] + [part for part in (recipe.reversal, recipe.quadrature) if part]
        lines = [f"{name}   [{' + '.join(parts)}]",
                 *_entry("truth", MEANING[recipe.truth], width), *_entry("cost", account.cost, width), *_entry("memory", account.memory, width),
                 *_entry("not for", account.avoid, width), *_entry("source", recipe.source, width)]
        if recipe.options:
            lines += _entry("options", ", ".join(recipe.options), width)
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs)


MEANING = {
    "exact": "exact: the derivative of the exact solution, to tolerance",
    "frozen": "frozen: the derivative of the steps taken, with their times held, to rounding",
    "through": "through: the derivative of the adaptive program with its step control, to rounding",
}


def _entry(label, text, width):
    return textwrap.wrap(text, width, initial_indent=f"    {label:<9}", subsequent_indent=" " * 13)
