"""Version of the package, which its modules and the build read from here."""

__version__ = "0.1.0"
