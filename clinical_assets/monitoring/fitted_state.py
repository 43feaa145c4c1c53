"""Fitted references as bytes and back, to the last bit and without pickle.

Belongs here: how frozen values, arrays and frames are written into one archive. Does not belong here: what is fitted,
and where the bytes are kept.

The archive is a zip: `structure.json` says how values nest, one member a type holds the numbers of all arrays end to
end, and each frame is a Parquet file. Only classes that the reader names are made again.
"""

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel

STRUCTURE = "structure.json"
KINDS_OF_NUMBERS = "biuf"


class FittedStateError(ValueError):
    """Bytes do not hold a fitted value of these classes; the message says what is wrong with them."""


def write_fitted(value: object) -> bytes:
    """A value of dataclasses, arrays, frames, tuples, lists, dicts, frozen sets and plain values as one archive.

    Equal values give equal bytes. Raises FittedStateError naming a type that cannot be written.
    """
    writer = _Writer()
    structure = json.dumps(writer.describe(value), separators=(",", ":"))
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        members = {STRUCTURE: structure.encode()}
        members |= {f"{kind}.bin": b"".join(parts) for kind, parts in writer.numbers.items()}
        members |= {f"{place}.parquet": content for place, content in enumerate(writer.frames)}
        for name, content in members.items():
            # A member's time is that of now, unless it is given one.
            archive.writestr(zipfile.ZipInfo(name), content, compress_type=zipfile.ZIP_DEFLATED)
    return written.getvalue()


def read_fitted(content: bytes, classes: Sequence[type]) -> Any:
    """The value that `write_fitted` wrote; arrays cannot be written to.

    Raises FittedStateError where the bytes are damaged, or hold a class that is not among these or has other fields.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        return _Reader(members, {one.__name__: one for one in classes}).make(json.loads(members[STRUCTURE]))
    except FittedStateError:
        raise
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile, pl.exceptions.PolarsError) as error:
        raise FittedStateError(
            f"the fitted state does not open ({type(error).__name__}: {error}); fit it anew"
        ) from error


class _Writer:
    """What was met so far: the numbers of arrays by their type, and frames."""

    def __init__(self) -> None:
        self.numbers: dict[str, list[bytes]] = {}
        self.lengths: dict[str, int] = {}
        self.frames: list[bytes] = []

    def describe(self, value: object) -> Any:
        match value:
            case None | bool() | str():
                return value
            case np.generic():
                return self.describe(value.item())
            case int() | float():
                return value
            case np.ndarray():
                return self._describe_array(value)
            case pl.Series() | pl.DataFrame():
                kind = "series" if isinstance(value, pl.Series) else "frame"
                return {kind: self._keep_frame(value.to_frame() if isinstance(value, pl.Series) else value)}
            case tuple() | list() | frozenset():
                ordered = sorted(value) if isinstance(value, frozenset) else value
                return {type(value).__name__: [self.describe(each) for each in ordered]}
            case dict():
                return {"dict": [[self.describe(key), self.describe(each)] for key, each in value.items()]}
            case BaseModel():
                return {"model": type(value).__name__, "json": value.model_dump_json()}
            case _ if is_dataclass(value):
                held = {field.name: self.describe(getattr(value, field.name)) for field in fields(value)}
                return {"class": type(value).__name__, "fields": held}
            case _:
                raise FittedStateError(f"a {type(value).__name__} cannot be written into a fitted state")

    def _describe_array(self, array: npt.NDArray[Any]) -> dict[str, Any]:
        kind = array.dtype.newbyteorder("<").str[1:]
        if array.dtype.kind not in KINDS_OF_NUMBERS:
            raise FittedStateError(f"an array of {array.dtype} cannot be written into a fitted state")
        start = self.lengths.get(kind, 0)
        self.numbers.setdefault(kind, []).append(array.astype(array.dtype.newbyteorder("<")).tobytes())
        self.lengths[kind] = start + array.size
        return {"array": kind, "start": start, "shape": list(array.shape)}

    def _keep_frame(self, frame: pl.DataFrame) -> int:
        written = io.BytesIO()
        frame.write_parquet(written)
        self.frames.append(written.getvalue())
        return len(self.frames) - 1


class _Reader:
    """The members of an archive, and the classes that may be made of them."""

    def __init__(self, members: dict[str, bytes], classes: dict[str, type]) -> None:
        self.members, self.classes = members, classes
        self.numbers: dict[str, npt.NDArray[Any]] = {}

    def make(self, node: Any) -> Any:
        match node:
            case {"array": kind, "start": start, "shape": shape}:
                return self._numbers_of(kind)[start : start + int(np.prod(shape, dtype=np.int64))].reshape(shape)
            case {"series": place}:
                return self._frame(place).to_series()
            case {"frame": place}:
                return self._frame(place)
            case {"tuple": each}:
                return tuple(map(self.make, each))
            case {"list": each}:
                return list(map(self.make, each))
            case {"frozenset": each}:
                return frozenset(map(self.make, each))
            case {"dict": pairs}:
                return {self.make(key): self.make(value) for key, value in pairs}
            case {"model": name, "json": written}:
                return self._class(name).model_validate_json(written)
            case {"class": name, "fields": held}:
                made = self._class(name)
                if set(held) != {field.name for field in fields(made)}:
                    raise FittedStateError(f"a fitted {name} has other fields now than when it was kept; fit it anew")
                return made(**{field: self.make(value) for field, value in held.items()})
            case None | bool() | str() | int() | float():
                return node
            case _:
                raise FittedStateError("the fitted state has an unknown part; fit it anew")

    def _class(self, name: str) -> Any:
        if name not in self.classes:
            raise FittedStateError(f"the fitted state holds a {name}, which is none of {', '.join(self.classes)}")
        return self.classes[name]

    def _frame(self, place: int) -> pl.DataFrame:
        return pl.read_parquet(io.BytesIO(self.members[f"{int(place)}.parquet"]))

    def _numbers_of(self, kind: str) -> npt.NDArray[Any]:
        if kind not in self.numbers:
            dtype = np.dtype(f"<{kind}")
            if dtype.kind not in KINDS_OF_NUMBERS:
                raise FittedStateError(f"the fitted state holds an array of {kind}, which is no number")
            self.numbers[kind] = np.frombuffer(self.members[f"{kind}.bin"], dtype=dtype)
        return self.numbers[kind]
