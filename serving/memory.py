"""Giving memory back to the system once a model is unloaded.

    memory.prepare()    # all is imported, but TensorFlow has not run anything yet
    memory.settle()
    ...
    servable.close(); del servable
    memory.release()

Three things keep a freed model's memory in the process. TensorFlow's CPU allocator for oneDNN holds on to
every region it ever got (all blocks of 256 KiB and more: most weights); with `prepare` it uses malloc.
That keeps freed pages for later use; `release` hands them to the system. And malloc has several arenas, of
which `malloc_trim` leaves the free end ("top") of all but the first as it is: tens of MB in each that threads
have loaded a model from. `release` visits them all, for which there must be few: `prepare` sees to that.

Measured with 100 MB of weights, loaded and unloaded five times: 140 MB more than at the start stayed resident
after an unload, without the visit 19 to 76, with it 18 to 21 (TensorFlow's own, taken once). It costs nothing
for blocks up to 32 MB; larger ones are then fresh pages each time (four convolutions on 16 images, 64x64x128:
6 % more CPU time).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import re
import sys
import threading
from pathlib import Path


def prepare() -> None:
    """Has TensorFlow allocate with malloc (without effect once it has allocated anything), and malloc keep
    what requests use again and again: each one would wait for the system to clear its pages.

    An environment that sets the variable itself, to 0 or 1, has its way.
    """
    os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
    if _glibc is not None:
        _glibc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        _glibc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        _glibc.mallopt(_M_ARENA_MAX, _ARENAS)
        _visit_arenas(_glibc)  # makes them


def settle() -> None:
    """Takes what lives for as long as the process out of garbage collection.

    TensorFlow's modules are a million objects: to look through them again takes a third of a second, and all
    requests stand still.
    """
    gc.collect()
    gc.freeze()


def release() -> None:
    """Returns freed memory to the system: a model was closed, and nothing refers to it any more.

    Collects garbage first, as a graph in Python is full of cycles. A GPU's memory stays with TensorFlow.
    """
    gc.collect()
    if _glibc is not None:
        _glibc.malloc_trim(0)
        with _one_at_a_time:
            _glibc.mallopt(_M_TRIM_THRESHOLD, _VISIT_BYTES)
            _visit_arenas(_glibc)
            _glibc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def available() -> int:
    """Bytes that this process may still take: what is left to its container, or to the machine."""
    try:
        left = 1024 * int(_MEM_AVAILABLE.findall(Path("/proc/meminfo").read_text())[0])
    except OSError:  # no Linux
        left = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for folder, limit, used in _CGROUPS:
        # No such version of cgroups, or no limit ("max").
        with contextlib.suppress(OSError, ValueError):
            reclaimable = _INACTIVE_FILE.findall(Path(folder, "memory.stat").read_text())
            taken = int(Path(folder, used).read_text()) - sum(map(int, reclaimable[:1]))
            left = min(left, int(Path(folder, limit).read_text()) - taken)
    return max(0, left)


def _visit_arenas(glibc: ctypes.CDLL) -> None:
    """Allocates and frees in every arena: malloc then trims its top to the threshold.

    An arena cannot be asked for, but each new thread is given one: those without threads come first, then all
    of them in turn.
    """
    together = threading.Barrier(2 * _ARENAS)

    def visit() -> None:
        glibc.free(glibc.malloc(_VISIT_BYTES))
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait()  # the next one would be given the arena of one that is gone

    threads = [threading.Thread(target=visit, daemon=True) for _ in range(together.parties)]
    try:
        for thread in threads:
            thread.start()
    except RuntimeError:  # the system gives no more threads: these pages stay until the next time
        together.abort()
    for thread in threads:
        if thread.ident is not None:
            thread.join()


# malloc.h. Weights, as a rule larger, go back at once; smaller ones when `release` is called.
_M_TRIM_THRESHOLD, _KEPT_BYTES = -1, 256 * 2**20
_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES = -3, 32 * 2**20  # the most that glibc takes
# Not glibc's 8 for each processor: one for each thread that can be running.
_M_ARENA_MAX, _ARENAS = -8, min(os.cpu_count() or 1, 16)
_VISIT_BYTES = 2**17  # smaller ones are kept by their thread, or do not trim

_one_at_a_time = threading.Lock()

_MEM_AVAILABLE = re.compile(r"^MemAvailable: *(\d+) kB", re.MULTILINE)
_INACTIVE_FILE = re.compile(r"^(?:total_)?inactive_file (\d+)", re.MULTILINE)
_CGROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)



def _load_glibc() -> ctypes.CDLL | None:
    """None with musl, and where there is no glibc."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        return None
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    return library


_glibc = _load_glibc()
