"""Dependencies of lazy arrays, from MLX's export of their graph."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Mapping

import mlx.core as mx

_EDGE = re.compile(r'"?([^"\s]+)"? -> "?([^"\s]+)"?')
Weights = dict[str, mx.array]
MAX_NAMED = 1000  # named arrays in one graph export; MLX allows 1024


def sources_of(sources: Weights, outputs: Weights) -> dict[str, tuple[str, ...]]:
    """Return the names of the sources that each lazy output depends on.

    In MLX's graph export nodes are arrays and primitives, and edges go to their users. A primitive
    has the same number in every export; an array has a name only if the caller passes one. MLX
    allows 1024 names, so each export names some of the arrays.

    Returns:
        The sources of each output, in the order in which the graph uses them.
    """
    arrays = {id(array): array for array in (*sources.values(), *outputs.values())}
    inputs: dict[str, list[str]] = {}  # primitive to the primitives that compute its inputs
    made_by: dict[int, str] = {}
    for start in range(0, len(arrays), MAX_NAMED):
        batch = list(arrays)[start : start + MAX_NAMED]
        labels = {f"a{number}": arrays[number] for number in batch}
        makers, users = _picture(labels)
        for primitive, names in users.items():
            inputs[primitive] = [makers[name] for name in names if name in makers]
        made_by |= {n: makers.get(f"a{n}", f"a{n}") for n in batch}
    drawn = {made_by[id(array)]: name for name, array in sources.items()}
    known: dict[str, tuple[str, ...]] = {}

    def walk(start: str) -> tuple[str, ...]:
        stack = [start]
        while stack:  # not recursive: graphs can be deep
            node = stack[-1]
            if node in known:
                stack.pop()
            elif node in drawn:
                known[stack.pop()] = (drawn[node],)
            elif waiting := [n for n in inputs.get(node, ()) if n not in known]:
                stack.extend(reversed(waiting))
            else:
                names = (name for n in inputs.get(stack.pop(), ()) for name in known[n])
                known[node] = tuple(dict.fromkeys(names))
        return known[start]

    return {name: walk(made_by[id(array)]) for name, array in outputs.items()}


def _picture(labels: Mapping[str, mx.array]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Export one graph: array name to the primitive that computes it; primitive to its inputs."""
    text = io.StringIO()
    mx.export_to_dot(text, **labels)
    makers: dict[str, str] = {}
    users: dict[str, list[str]] = defaultdict(list)
    for line in text.getvalue().splitlines():
        edge = _EDGE.fullmatch(line.strip())
        if edge and edge[1].isdigit():
            makers[edge[2]] = edge[1]
        elif edge:
            users[edge[2]].append(edge[1])
    return makers, users
