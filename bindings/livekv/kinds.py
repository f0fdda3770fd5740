"""How a token is kept, in Session.kv_dump (kv_kind of engine/store/kv_dump.h)."""

SEALED = 0
SINK = 1
EXACT = 2
TAIL = 3
DENSE = 4
GIVEN_BACK = 5
DROPPED = 6
