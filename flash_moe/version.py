"""The version of the package: what stores, wheels and ``--version`` report."""

__version__ = "0.1.0"
