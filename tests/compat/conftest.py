"""Half the layers of the tiny model."""

from tests.support.shallow import tiny_mlx, tiny_store  # noqa: F401
