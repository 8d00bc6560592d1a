"""Arrays of a cache in `.npy` and `.safetensors` files, read and written in pieces.

A `.safetensors` file holds one tensor a buffer, by the buffer's name; a `.npy` file holds one array, so several buffers
are several files, `cache.{}.npy`. numpy has no name for bfloat16 and the 8-bit floats: in `.npy` they are written as
unsigned integers of their width, and read from those or from bytes without a name (V2).

safetensors' own library writes tensors that are whole in memory, and gives numpy no bfloat16; its format is eight bytes
of length, JSON, then the arrays, so it is read and written here.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from kvconform.specs.convert import Refused
from kvconform.specs.dtypes import DTYPES, DType
from kvconform.specs.row import Array

CODES: dict[str, DType] = {
    "F32": DTYPES["float32"],
    "F16": DTYPES["float16"],
    "BF16": DTYPES["bfloat16"],
    "F8_E4M3": DTYPES["float8_e4m3fn"],
    "F8_E5M2": DTYPES["float8_e5m2"],
    "F8_E8M0": np.dtype(np.uint8),
    "I32": np.dtype(np.int32),
    "U32": np.dtype(np.uint32),
    "I16": np.dtype(np.int16),
    "U16": np.dtype(np.uint16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
}
"""safetensors' dtype codes -> what a buffer of them is to numpy."""

ALIGN = 4096
"""Bytes that the first array of a written file is aligned to: pieces of it are then whole blocks of a file system."""


@dataclass(frozen=True)
class Stored:
    """An array in an open file.

    name     of the file, for people
    shape    of the array
    dtype    of its elements
    file     unbuffered
    offset   of its first byte
    """

    name: str
    shape: tuple[int, ...]
    dtype: DType
    file: FileIO
    offset: int

    @property
    def nbytes(self) -> int:
        """Size of the array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, start: int, into: Array) -> None:
        """Fill an array of bytes with those that begin at an offset in this one; threads may read at once."""
        rest, at = into.data, self.offset + start
        while rest:
            count = os.preadv(self.file.fileno(), [rest], at)
            if not count:
                raise Refused(f"{self.name} ends before its array does")
            rest, at = rest[count:], at + count

    def write(self, start: int, data: Array) -> None:
        """Write bytes at an offset in this array; threads may write at once."""
        rest, at = data.data, self.offset + start
        while rest:
            count = os.pwrite(self.file.fileno(), rest, at)
            rest, at = rest[count:], at + count


# --- names


def files(path: Path, buffers: tuple[str, ...], what: str) -> dict[Path, tuple[str, ...]]:
    """The files that a row's buffers lie in.

    path   as the user wrote it
    what   the row's name
    Raises Refused for another kind of file, or one `.npy` for several buffers.
    """
    if path.suffix not in (".npy", ".safetensors"):
        raise Refused(f"{path}: a cache's file ends in .npy or .safetensors")
    if path.suffix == ".safetensors":
        return {path: buffers}
    if "{}" in path.name:
        return {path.with_name(path.name.replace("{}", name)): (name,) for name in buffers}
    if len(buffers) > 1:
        pattern = path.with_name(f"{path.stem}.{{}}.npy")
        told = " and ".join(path.with_name(f"{path.stem}.{name}.npy").name for name in buffers)
        raise Refused(
            f"{path}: {what} has the buffers {' and '.join(buffers)}, and a .npy file holds one array; write {pattern} "
            f"for {told}"
        )
    return {path: buffers}


# --- reading


@contextmanager
def opened(path: Path, buffers: tuple[str, ...], what: str) -> Iterator[dict[str, Stored]]:
    """The arrays of a row's buffers, open for reading.

    Raises Refused when a file is missing, cannot be read, or holds other arrays.
    """
    with ExitStack() as stack:
        found: dict[str, Stored] = {}
        for one, names in files(path, buffers, what).items():
            if not one.is_file():
                raise Refused(f"{one} is no file" if one.exists() else f"{one}: there is no such file")
            file = stack.enter_context(FileIO(one))
            found |= _npy(one, file, names[0]) if one.suffix == ".npy" else _safetensors(one, file, names, what)
        yield found


def _npy(path: Path, file: FileIO, name: str) -> dict[str, Stored]:
    try:
        version = np.lib.format.read_magic(file)
        if version not in _NPY_HEADERS:
            raise ValueError(f"version {version[0]}.{version[1]}")
        shape, fortran, dtype = _NPY_HEADERS[version](file)
    except ValueError as e:
        raise Refused(f"{path} is no .npy file that can be read: {e}") from e
    if dtype.hasobject or dtype.names:
        raise Refused(f"{path} holds {dtype}, not numbers")
    if fortran and len(shape) > 1:
        raise Refused(f"{path}: the array is in Fortran order; save it in C order (np.ascontiguousarray)")
    _little(path, dtype)
    stored = Stored(str(path), tuple(shape), dtype, file, file.tell())
    _whole(path, stored.offset + stored.nbytes)
    return {name: stored}


_NPY_HEADERS: dict[tuple[int, int], Callable[[Any], Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _safetensors(path: Path, file: FileIO, names: tuple[str, ...], what: str) -> dict[str, Stored]:
    size = path.stat().st_size
    length = int.from_bytes(file.read(8), "little")
    try:
        if 8 + length > size:
            raise ValueError(f"its header would be {length} bytes long, the file is {size}")
        header = json.loads(file.read(length))
        tensors = {name: _tensor(one) for name, one in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise Refused(f"{path} is no .safetensors file that can be read: {e}") from e
    for have, want, text in ((names, tensors, "does not hold"), (tensors, names, "also holds")):
        other = [name for name in have if name not in want]
        if other:
            raise Refused(f"{path} {text} {' and '.join(other)}; the buffers of {what} are {' and '.join(names)}")
    found = {}
    for name in names:
        code, shape, (begin, end) = tensors[name]
        if code not in CODES:
            raise Refused(f"{path}: {name} is of type {code}; known: {', '.join(CODES)}")
        found[name] = Stored(str(path), shape, CODES[code], file, 8 + length + begin)
        if found[name].nbytes != end - begin:
            raise Refused(f"{path}: {name} is {code} of shape {shape}, but {end - begin} bytes long")
    at = 0
    for name in sorted(names, key=lambda name: tensors[name][2]):
        begin, end = tensors[name][2]
        if begin != at:
            raise Refused(f"{path}: {name} begins at byte {begin} of the data; one behind another, it would at {at}")
        at = end
    _whole(path, 8 + length + at)
    return found


def _tensor(one: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """Type, shape and bytes of a tensor, off its entry in a header."""
    shape, (begin, end) = tuple(map(int, one["shape"])), map(int, one["data_offsets"])
    if min(shape, default=0) < 0:
        raise ValueError(f"a shape of {shape}")
    return str(one["dtype"]), shape, (begin, end)


def _little(path: Path, dtype: DType) -> None:
    if dtype.byteorder == ">":
        raise Refused(f"{path} is big-endian ({dtype.str}); a cache is little-endian")


def _whole(path: Path, want: int) -> None:
    size = path.stat().st_size
    if size != want:
        raise Refused(f"{path} is {size} bytes long; its header says {want}")


# --- writing


@contextmanager
def created(
    path: Path, arrays: Mapping[str, tuple[tuple[int, ...], DType]], what: str, *, force: bool = False
) -> Iterator[dict[str, Stored]]:
    """New arrays full of zeros; their files get their names when the block ends, and are gone if it fails.

    arrays   buffer -> shape and dtype
    force    replace files that are there
    Raises Refused when a file is there, or its folder is not.
    """
    named = files(path, tuple(arrays), what)
    check_absent(named, force=force)
    parts = {one: one.with_name(f".{one.name}.{os.getpid()}.part") for one in named}
    try:
        with ExitStack() as stack:
            found: dict[str, Stored] = {}
            for one, names in named.items():
                file = stack.enter_context(_new(parts[one], one))
                some = {name: arrays[name] for name in names}
                found |= _begin(one, file, some)
            yield found
        check_absent(named, force=force)
        for one, part in parts.items():
            os.replace(part, one)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)


def _new(part: Path, path: Path) -> FileIO:
    """A file under a name for the time being. An error names the file that it is to become."""
    try:
        return FileIO(part, "xb+")
    except OSError as e:
        raise OSError(e.errno, e.strerror, str(path)) from e


def check_absent(paths: Mapping[Path, Any], *, force: bool) -> None:
    """Raises Refused for a file that is there and may not be replaced, and for a folder that is not there."""
    for path in paths:
        if not path.absolute().parent.is_dir():
            raise Refused(f"{path}: there is no folder {path.parent}")
        if path.exists() and not path.is_file():
            raise Refused(f"{path} is there already, and is no file that can be replaced")
        if path.exists() and not force:
            raise Refused(f"{path} is there already; --force replaces it")


def _begin(path: Path, file: FileIO, arrays: Mapping[str, tuple[tuple[int, ...], DType]]) -> dict[str, Stored]:
    """Write a header, and give the file its size."""
    if path.suffix == ".npy":
        ((name, (shape, dtype)),) = arrays.items()
        plain = dtype if dtype.isbuiltin == 1 else np.dtype(f"u{dtype.itemsize}")
        text = repr({"descr": np.lib.format.dtype_to_descr(plain), "fortran_order": False, "shape": shape}).encode()
        text += b" " * (-(10 + len(text) + 1) % ALIGN) + b"\n"
        file.write(np.lib.format.magic(1, 0) + len(text).to_bytes(2, "little") + text)
        found = {name: Stored(str(path), shape, plain, file, file.tell())}
    else:
        header, starts, end = {}, {}, 0
        for name, (shape, dtype) in arrays.items():
            starts[name], end = end, end + math.prod(shape) * dtype.itemsize
            header[name] = {"dtype": _code(dtype), "shape": shape, "data_offsets": (starts[name], end)}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % ALIGN)
        file.write(len(text).to_bytes(8, "little") + text)
        begin = 8 + len(text)
        found = {name: Stored(str(path), *arrays[name], file, begin + starts[name]) for name in arrays}
    file.truncate(max(one.offset + one.nbytes for one in found.values()))
    return found


def _code(dtype: DType) -> str:
    return next(code for code, one in CODES.items() if one == dtype and code != "F8_E8M0")
