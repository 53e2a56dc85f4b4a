"""A pool of multiprocessing behind a front.

python pools.py SOCKET fork|spawn|forkserver Pool|ProcessPoolExecutor [MODULE, preloaded in the fork server]...
"""

from __future__ import annotations

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

from application import answer
from front import serve

JOBS = range(4)


def main(path: str, method: str, kind: str, *preloaded: str) -> None:
    """Serves, and lets the pool's processes end by themselves."""
    context = multiprocessing.get_context(method)
    context.set_forkserver_preload(list(preloaded))
    if kind == "Pool":
        pool = context.Pool(2)
        try:
            serve(path, lambda: pool.map(answer, JOBS, chunksize=1))
        finally:
            pool.close()
            pool.join()
    else:
        with ProcessPoolExecutor(2, context) as executor:
            serve(path, lambda: executor.map(answer, JOBS))


if __name__ == "__main__":
    main(*sys.argv[1:])
