"""One family of errors, each with a message the user can act on.

The message says what was wrong, in which input, what was expected, and what to do next. Each class also derives from
the built-in that a Python programmer would expect.
"""

from __future__ import annotations


class ScoreFusionError(Exception):
    """Anything the user can put right. The command line prints its message and exits with 2."""


class VolumeError(ScoreFusionError, ValueError):
    """A volume file, or the array in it, cannot be used."""


class GeometryError(VolumeError):
    """The affine, the spacing or the overlap of volumes makes no sense."""


class DocumentError(ScoreFusionError, ValueError):
    """A JSON or YAML file cannot be read, or holds what no such file may hold."""


class BundleError(ScoreFusionError, ValueError):
    """A model bundle is incomplete, damaged, unsafe or made for another version."""


class UnknownModelError(BundleError, LookupError):
    """No model of that name is installed; the message lists the nearest names."""


class RequestError(ScoreFusionError, ValueError):
    """An argument, or a combination of arguments, that cannot be honoured."""


class ResultError(ScoreFusionError, ArithmeticError):
    """What came out is no image, so it is not given out."""


class OutOfMemory(ScoreFusionError):
    """The work does not fit into the memory of the device, even in tiles."""


class StreamError(ScoreFusionError, OSError):
    """Standard output takes nothing more: the disk is full."""


class Cancelled(Exception):
    """The user, a signal or the parent process asked for the work to end. Not an error, hence outside the family."""
