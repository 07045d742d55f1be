"""Half the layers of the tiny model."""

from tests.support import shallow

tiny_mlx = shallow.tiny_mlx
tiny_store = shallow.tiny_store
