# SPDX-License-Identifier: GPL-3.0-or-later
"""CASA's records, and this package's plain data, as JSON and back again, to the last bit.

Covers what JSON knows, numpy's numbers and arrays, tuples, dictionaries with any keys, and the
dataclasses of this package. Reading it runs nothing: a file cannot do more than be wrong.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from typing import Any

import numpy as np

#: Key under which a JSON object says what it stands for.
_KIND = "!"

#: Of numpy: truth values, numbers and texts.
_KINDS_OF_ARRAYS = "biufcUS"

_PACKAGE = __name__.split(".")[0]


def encode(value: Any) -> Any:
    """Turn a value into what JSON can hold.

    Raises
    ------
    TypeError
        For what is not covered.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        return _encoded_array(np.asarray(value), scalar=isinstance(value, np.generic))
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple):
        return {_KIND: "tuple", "items": [encode(item) for item in value]}
    if isinstance(value, dict):
        if _KIND not in value and all(type(key) is str for key in value):
            return {key: encode(item) for key, item in value.items()}
        pairs = [[encode(key), encode(item)] for key, item in value.items()]
        return {_KIND: "dict", "items": pairs}
    cls = type(value)
    if dataclasses.is_dataclass(cls) and cls.__module__.split(".")[0] == _PACKAGE:
        fields = {f.name: encode(getattr(value, f.name)) for f in dataclasses.fields(cls)}
        return {_KIND: f"{cls.__module__}:{cls.__qualname__}", "fields": fields}
    raise TypeError(f"{value!r}, a {cls.__qualname__}, cannot be kept as JSON")


def decode(value: Any) -> Any:
    """Turn what `encode` made into an equal value.

    Raises
    ------
    ValueError
        If `encode` cannot have made it.
    """
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_KIND)
    if kind is None:
        return {key: decode(item) for key, item in value.items()}
    try:
        if kind == "array":
            return _decoded_array(value)
        if kind == "tuple":
            return tuple(decode(item) for item in value["items"])
        if kind == "dict":
            return {decode(key): decode(item) for key, item in value["items"]}
        fields = {name: decode(item) for name, item in value["fields"].items()}
        return _dataclass(kind)(**fields)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{kind!r} cannot be read ({error})") from error


def digest(value: Any) -> str:
    """Return a text that is the same for equal values, and another for others."""
    return hashlib.sha256(json.dumps(encode(value), sort_keys=True).encode()).hexdigest()


def _encoded_array(array: np.ndarray[Any, Any], *, scalar: bool) -> Any:
    if array.dtype.kind not in _KINDS_OF_ARRAYS:
        raise TypeError(f"an array of {array.dtype} cannot be kept as JSON")
    flat = array.ravel()
    if array.dtype.kind == "c":
        flat = flat.view(flat.real.dtype)
    items = [item.decode() if isinstance(item, bytes) else item for item in flat.tolist()]
    return {
        _KIND: "array",
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "scalar": scalar,
        "items": items,
    }


def _decoded_array(value: dict[str, Any]) -> Any:
    dtype = np.dtype(value["dtype"])
    if dtype.kind not in _KINDS_OF_ARRAYS:
        raise ValueError(f"an array of {dtype} cannot be read")
    if dtype.kind == "c":
        array = np.array(value["items"], dtype=f"{dtype.byteorder}f{dtype.itemsize // 2}")
        array = array.view(dtype)
    else:
        array = np.array(value["items"], dtype=dtype)
    array = array.reshape(value["shape"])
    return array[()] if value["scalar"] else array


def _dataclass(kind: str) -> Any:
    module, _, name = kind.partition(":")
    if module.split(".")[0] != _PACKAGE:
        raise ValueError(f"{kind!r} is not of this package")
    cls = getattr(sys.modules[module], name)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ValueError(f"{kind!r} is no plain data")
    return cls
