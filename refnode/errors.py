"""Exceptions and warnings of refnode. Input errors are raised once, on the host, at the public door."""


class RefnodeError(Exception):
    """Base class of every error refnode raises itself."""


class InvalidInputError(RefnodeError, ValueError):
    """An argument has a wrong value; the message names it, what was expected and what was found."""


class InvalidTypeError(RefnodeError, TypeError):
    """An argument has a wrong type."""


class MissingDerivativeError(InvalidInputError):
    """A gradient needs a jvp or vjp that the field does not have."""


class BackendError(InvalidInputError):
    """A device was asked for on which nothing can run here; the message says what is missing."""


class IntegrationError(RefnodeError, RuntimeError):
    """An integration failed where its result was needed; ``solution`` holds what was computed."""

    def __init__(self, message, solution=None):
        super().__init__(message)
        self.solution = solution


class GradientMismatch(RefnodeError, AssertionError):
    """A gradient disagrees with its reference; ``report`` holds the evidence."""

    def __init__(self, message, report=None):
        super().__init__(message)
        self.report = report


class ProblemFileError(RefnodeError, ValueError):
    """A file of a problem, an answer or a reference is damaged or not what it should be; the message names the place."""


class CacheWarning(UserWarning):
    """The disk cache of compiled functions could not be used; results are unaffected."""


class GradientWarning(UserWarning):
    """A gradient was computed under conditions in which it may be inaccurate."""
