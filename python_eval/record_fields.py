"""What the fields of recorded results must be: results are read from files that people copy, join and edit."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

Types = tuple[type, ...]  # of JSON as Python reads it; true is no number
Fields = Mapping[str, Types]

TEXT: Types = (str,)
WHOLE: Types = (int,)
NUMBER: Types = (int, float)
FLAG: Types = (bool,)
LIST: Types = (list,)
OBJECT: Types = (dict,)
NULL: Types = (type(None),)

_NAMES = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "an object",
    type(None): "null",
}  # fmt: skip


def fault_of(record: Any, fields: Fields) -> str | None:
    """What is wrong with the first field that is missing or of another type; None where nothing is."""
    if not isinstance(record, dict):
        return "not a JSON object"
    for name, types in fields.items():
        if name not in record:
            return f"'{name}' is missing"
        value = record[name]
        if type(value) not in types or (isinstance(value, float) and not math.isfinite(value)):
            return f"'{name}' is {json.dumps(value)[:60]}, expected {' or '.join(_NAMES[one] for one in types)}"
    return None


def fault_of_all(records: Sequence[Any], fields: Fields) -> str | None:
    """The first fault of several records; None where there is none."""
    return next((fault for one in records if (fault := fault_of(one, fields))), None)
