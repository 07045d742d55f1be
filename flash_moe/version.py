"""Version of the package, reported by stores, wheels and ``--version``."""

__version__ = "0.1.0"
