"""Evidence on every derivative of the package, row by row; `refnode.validate` gathers it."""
