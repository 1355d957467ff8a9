"""The dask graph of a lazy ensemble, which is as small for 100,000 blocks as for one.

One layer computes blocks, and one for each array picks it out of what its block returned. Their keys and tasks are made
only when they are asked for. A block depends on no other node, so all workers can start at once. The graph holds
references to weights and observations, not their values.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from functools import partial
from typing import Any

import dask.array as da
from dask._task_spec import Task as Node
from dask._task_spec import TaskRef
from dask.base import tokenize
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer

from xsda.sampling.blocks import Task, block, outputs


class Numbered(Layer):
    """A layer with one node for each block."""

    has_legacy_tasks = False

    def __init__(self, name: str, count: int):
        super().__init__()  # which takes over the annotations of ``dask.annotate``
        self.name, self.count = name, count

    def key(self, number: int) -> tuple[Any, ...]:
        """Return the key of the node of a block."""
        return self.name, number

    def node(self, key: Any) -> Node:
        """Return the node of a key."""
        raise NotImplementedError

    def __getitem__(self, key: Any) -> Node:
        if key not in self:
            raise KeyError(key)
        return self.node(key)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, tuple) and key[0] == self.name and key[1] in range(self.count)

    def __iter__(self) -> Iterator[Any]:
        return map(self.key, range(self.count))

    def __len__(self) -> int:
        return self.count

    def is_materialized(self) -> bool:
        return False

    def get_output_keys(self) -> Set[Any]:
        return self.keys()

    def needs(self, key: Any) -> set[Any]:
        """Return the keys on which a node depends."""
        return set()

    def cull(self, keys: set[Any], all_hlg_keys: Collection[Any]) -> tuple[Layer, Mapping[Any, set[Any]]]:
        """Return the layer of some of its keys, and what these depend on."""
        needs = {key: self.needs(key) for key in self if key in keys}
        if len(needs) == len(self):
            return self, needs
        return MaterializedLayer({key: self.node(key) for key in needs}, annotations=self.annotations), needs


class BlockLayer(Numbered):
    """Computes ``chunk`` members in each node."""

    def __init__(self, name: str, task: Task, members: Sequence[int], chunk: int, batch: int):
        super().__init__(name, -(-len(members) // chunk))
        self.members, self.chunk, self.compute = members, chunk, partial(block, task, batch)

    def node(self, key: Any) -> Node:
        start = key[1] * self.chunk
        return Node(key, self.compute, self.members[start : start + self.chunk])


class PickLayer(Numbered):
    """Picks the array ``number`` with ``ndim`` dimensions besides ``member`` out of each block."""

    def __init__(self, blocks: BlockLayer, number: int, ndim: int):
        super().__init__(f"{blocks.name}-{number}", blocks.count)
        self.source, self.number, self.rest = blocks.name, number, (0,) * ndim

    def key(self, number: int) -> tuple[Any, ...]:
        return self.name, number, *self.rest

    def needs(self, key: Any) -> set[Any]:
        return {(self.source, key[1])}

    def node(self, key: Any) -> Node:
        return Node(key, operator.getitem, TaskRef((self.source, key[1])), self.number)


class Ensemble(da.Array):
    """An array whose graph is culled but not fused: fusion drops the annotations of a layer."""

    __slots__ = ()

    @staticmethod
    def __dask_optimize__(graph: HighLevelGraph, keys: Any, **_: Any) -> HighLevelGraph:
        wanted, layers = set(flatten([keys])), graph.layers.values()
        whole = len(wanted) == sum(len(layer) for layer in layers if isinstance(layer, PickLayer))
        return graph if whole else graph.cull(wanted)


def lazy(task: Task, members: Sequence[int], *, chunk: int, batch: int) -> list[Ensemble]:
    """Return what ``compute`` returns as dask arrays with ``chunk`` members per block; nothing is computed yet."""
    name = f"xsda-{tokenize(task.token, list(members), chunk, batch)}"
    blocks = BlockLayer(name, task, members, chunk, batch)
    rows = tuple(min(chunk, len(members) - start) for start in range(0, len(members), chunk))
    found = []
    for k, (shape, dtype) in enumerate(outputs(task)):
        picks = PickLayer(blocks, k, len(shape))
        graph = HighLevelGraph({name: blocks, picks.name: picks}, {name: set(), picks.name: {name}})
        found.append(Ensemble(graph, picks.name, chunks=(rows, *((n,) for n in shape)), dtype=dtype))
    return found
