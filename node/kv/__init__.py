"""A small register and append store with compare-and-set, so that general checkers have a subject.

Commands and queries are msgpack arrays; keys and values are byte strings.

    [PUT, key, value]              -> [OK]
    [APPEND, key, value]           -> [OK, new length] or [FULL, why]
    [CAS, key, expected, value]    -> [OK] or [MISMATCH, current]; `expected` and `current` None where there is no value
    anything else                  -> [BAD, what is wrong]
    query [GET, key]               -> [value or None]
"""

from node.kv.machine import KvMachine, append, cas, get, put

__all__ = ["KvMachine", "append", "cas", "get", "put"]
