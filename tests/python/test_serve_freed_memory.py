"""Memory that malloc keeps is given back by a server."""

import ctypes
import threading
from pathlib import Path

import pytest
from livekv.serve.freed_memory import FreedMemory


def resident() -> int:
    """MiB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20


def fragments(n: int = 3000) -> list[ctypes.c_void_p]:
    """n pieces of 48 KiB, of which one in a hundred is in use: the others are between them."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    pieces = [ctypes.c_void_p(libc.malloc(ctypes.c_size_t(48 << 10))) for _ in range(n)]
    for piece in pieces:
        ctypes.memset(piece, 1, 48 << 10)
    for i, piece in enumerate(pieces):
        if i % 100:
            libc.free(piece)
    return pieces[::100]


@pytest.mark.uninstrumented
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="malloc is not glibc's")
def test_what_lies_between_pieces_in_use_is_given_back_when_it_is_time():
    in_use: list[ctypes.c_void_p] = []
    thread = threading.Thread(target=lambda: in_use.extend(fragments()))  # an arena of its own
    thread.start()
    thread.join()
    before = resident()
    assert not FreedMemory(every=1000).give_back()
    assert resident() > before - 20
    assert FreedMemory(every=0).give_back()
    assert resident() < before - 100
    for piece in in_use:
        ctypes.CDLL(None).free(piece)
