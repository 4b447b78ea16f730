"""Numbered batches that are read from disk, as a training step asks for them.

Batches are global arrays, split over the mesh: every process reads the rows that lie on its own devices.
"""

from __future__ import annotations

import time

from jax.sharding import Mesh

from p4d_jax.train.devices import gather_batch


class NumberedStream:
    """number -> arrays (B, ...), split over the mesh; quick where numbers follow one another.

    The batches of the next numbers are read, and laid on the devices as they are stored, while the devices
    work.

    Attributes:
      waited: Seconds for which batches that were asked for were not yet there.
    """

    def __init__(self, numbered, mesh: Mesh, readers: int):
        """numbered: a `grain.MapDataset` of this process's rows of each batch, a pytree of NumPy arrays.
        readers: threads; each reads a batch, and so many batches are kept ready.
        """
        self._numbered = numbered.map(lambda stored: gather_batch(stored, mesh))
        self._readers = readers
        self._ahead, self._next = None, -1
        self.waited = 0.0

    def __call__(self, number: int):
        started = time.perf_counter()
        if number != self._next:
            self._ahead = self._start_at(number)
        self._next = number + 1
        batch = next(self._ahead)
        self.waited += time.perf_counter() - started
        return batch

    def _start_at(self, number: int):
        import grain

        options = grain.ReadOptions(num_threads=self._readers, prefetch_buffer_size=self._readers)
        rest = self._numbered.slice(slice(number, len(self._numbered)))
        return iter(rest.to_iter_dataset(options))
