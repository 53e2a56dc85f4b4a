"""Processes of `multiprocess`, a copy of multiprocessing: one, then a pool."""

from __future__ import annotations

from jobs import work
from multiprocess import Pool, Process  # type: ignore[import-not-found]

if __name__ == "__main__":
    process = Process(target=work)
    process.start()
    process.join()
    with Pool(2) as pool:
        pool.map(work, [0.1] * 4, chunksize=1)
        pool.close()
        pool.join()
