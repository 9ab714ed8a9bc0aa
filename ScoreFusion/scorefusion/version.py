"""The version of the engine and of the extension, in one place."""

__version__ = "0.1.0"
