"""TFRecord files that hold one tf.train.Example each, read and written without TensorFlow.

    stream   = length uint64 | masked crc of the length uint32 | Example | masked crc of the Example uint32
    Example  = {1: Features};  Features = {1: entry, ...};  entry = {1: name, 2: Feature}
    Feature  = {1: BytesList} or {3: Int64List};  BytesList = {1: value};  Int64List = {1: packed varints}

The parser is our own: these messages are small and frozen, every field of them is length-delimited, and a reader that
people trust has to say at which byte a file is damaged, which the protobuf library does not (it also copies every
value). Each length is checked against what holds it before anything is made of it, so that no file, however damaged,
costs more than LIMIT bytes of content. The checksums (CRC-32C) are the crc32c library's.
"""

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from crc32c import crc32c

from cluemap.errors import DataError

LIMIT = 48 * 2**20  # bytes of a file, packed or unpacked: seven times a 480 m tile of 52 dates
MOST = 64  # features of an Example, and numbers of an Int64List: Germany has 11 features and shapes of up to 4
CHUNK = 16384  # packed bytes a step: how finely damage to gzip data is located
AGAIN = "fetch the file again"


@dataclass(frozen=True)
class Span:
    """A part of a decompressed stream; it knows where it lies, so that errors can say so."""

    path: Path
    content: memoryview
    start: int = 0  # its byte offset in the stream

    def __len__(self) -> int:
        return len(self.content)

    def part(self, start: int, length: int) -> "Span":
        return Span(self.path, self.content[start : start + length], self.start + start)

    def damage(self, what: str, at: int = 0, mend: str = AGAIN) -> DataError:
        """-> the error to raise for `what`, found `at` bytes into this span."""
        return DataError(f"{self.path}: byte {self.start + at} of the decompressed stream: {what}; {mend}")


@dataclass(frozen=True)
class Feature:
    """One named value of an Example: the numbers of an Int64List, or the one value of a BytesList."""

    span: Span  # where it lies; of a BytesList, the value itself
    numbers: tuple[int, ...] | None  # None for a BytesList


def read_example(path: Path) -> dict[str, Feature]:
    """The features, by name, of the one Example in a gzip TFRecord.

    Raises:
        DataError: missing or damaged file, wrong checksum, or not one Example. Names the file and the byte offset: in
            the decompressed stream, or in the packed file where that is what is damaged.
    """
    record = _only_record(Span(path, memoryview(unpack(path))))
    features: dict[str, Feature] = {}
    for _, entry in _fields(_only(record, 1, "the Example"), {1}, "Features", MOST):
        name, feature = _entry(entry)
        if name in features:
            raise entry.damage(f"the feature {name!r} a second time")
        features[name] = feature
    return features


def write_example(path: Path, features: Mapping[str, bytes | Sequence[int]]) -> None:
    """Write one Example of bytes and of whole numbers >= 0; the same features give the same file again."""
    body = b"".join(_field(1, _field(1, name.encode()) + _field(2, _value(value))) for name, value in features.items())
    example = _field(1, body)
    length = struct.pack("<Q", len(example))
    stream = length + struct.pack("<I", masked_crc(length)) + example + struct.pack("<I", masked_crc(example))
    path.write_bytes(pack(stream))


def pack(content: bytes) -> bytes:
    """A gzip file without name, time or system, which gzip.compress would write otherwise in other Pythons."""
    zipper = zlib.compressobj(6, wbits=-15)
    header = b"\x1f\x8b\x08" + bytes(6) + b"\xff"
    return header + zipper.compress(content) + zipper.flush() + struct.pack("<II", zlib.crc32(content), len(content))


def unpack(path: Path) -> bytearray:
    """The content, at most LIMIT bytes, of a gzip file of one member; raises DataError."""
    unzip, content, fed = zlib.decompressobj(wbits=31), bytearray(), 0
    try:
        with path.open("rb") as file:
            while not unzip.eof and fed <= LIMIT and len(content) <= LIMIT:
                if not (chunk := file.read(CHUNK)):
                    raise _packed(path, fed, "the packed data stop early")
                content += unzip.decompress(chunk, LIMIT + 1 - len(content))
                fed += len(chunk)
            rest = len(unzip.unused_data) + len(file.read(1))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: {AGAIN}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    except zlib.error as error:
        raise _packed(path, fed, f"damaged here or within the next {CHUNK} bytes ({error})") from None
    if not unzip.eof:
        raise _packed(path, fed, f"holds more than {LIMIT} bytes, which no tile does")
    if rest:
        raise _packed(path, fed - len(unzip.unused_data), "the packed data end here, but the file continues")
    return content


def masked_crc(content: bytes | memoryview) -> int:
    """TFRecord's checksum: CRC-32C rotated by 15 bits, plus a constant."""
    crc = crc32c(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _packed(path: Path, at: int, what: str) -> DataError:
    return DataError(f"{path}: byte {at} of the packed file: {what}; {AGAIN}")


def _only_record(stream: Span) -> Span:
    if len(stream) < 16:
        raise stream.damage(f"{len(stream)} bytes are too few for a TFRecord", at=len(stream))
    length, crc = struct.unpack_from("<QI", stream.content)
    if masked_crc(stream.content[:8]) != crc:
        raise stream.damage("the record's length does not match its checksum", at=8)
    if length != len(stream) - 16:
        raise stream.damage(f"one record of {length} bytes is announced, {len(stream) - 16} are there")
    record = stream.part(12, length)
    (crc,) = struct.unpack_from("<I", stream.content, 12 + length)
    if masked_crc(record.content) != crc:
        raise stream.damage("the record does not match its checksum", at=12 + length)
    return record


def _entry(entry: Span) -> tuple[str, Feature]:
    parts = dict(_fields(entry, {1, 2}, "a features entry", 2))
    if set(parts) != {1, 2}:
        raise entry.damage("a features entry without its name or its value")
    name = bytes(parts[1].content[:MOST]).decode("ascii", "backslashreplace")
    kinds = list(_fields(parts[2], {1, 3}, f"the feature {name!r}", 1))
    if not kinds:
        raise parts[2].damage(f"the feature {name!r} is empty")
    ((kind, values),) = kinds
    values = _only(values, 1, f"the list of {name!r}")
    return name, Feature(values, tuple(_varints(values, MOST)) if kind == 3 else None)


def _only(span: Span, number: int, what: str) -> Span:
    """The one field that a message has."""
    fields = list(_fields(span, {number}, what, 1))
    if not fields:
        raise span.damage(f"{what} is empty")
    return fields[0][1]


def _fields(span: Span, numbers: set[int], what: str, most: int) -> Iterator[tuple[int, Span]]:
    """The length-delimited fields of a message, one after another."""
    at = count = 0
    while at < len(span):
        key, count = span.content[at], count + 1
        if key & 7 != 2 or key >> 3 not in numbers:
            raise span.damage(f"field {key >> 3} of wire type {key & 7}, which {what} does not have", at)
        if count > most:
            raise span.damage(f"more than {most} fields in {what}", at)
        length, after = _varint(span, at + 1)
        if length > len(span) - after:
            raise span.damage(f"a field of {length} bytes, where {what} has {len(span) - after} left", at)
        yield key >> 3, span.part(after, length)
        at = after + length


def _varints(span: Span, most: int) -> Iterator[int]:
    at = count = 0
    while at < len(span):
        number, after = _varint(span, at)
        if (count := count + 1) > most:
            raise span.damage(f"more than {most} numbers", at)
        yield number
        at = after


def _varint(span: Span, at: int) -> tuple[int, int]:
    """-> the number that starts at byte `at` (7 bits a byte, lowest first), and where it ends."""
    number = 0
    for place, byte in enumerate(span.content[at : at + 10]):
        number |= (byte & 127) << 7 * place
        if byte < 128:
            return number, at + place + 1
    raise span.damage("a number that does not end", at)


def _field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _as_varint(len(content)) + content


def _value(value: bytes | Sequence[int]) -> bytes:
    if isinstance(value, bytes):
        return _field(1, _field(1, value))
    return _field(3, _field(1, b"".join(_as_varint(number) for number in value)))


def _as_varint(number: int) -> bytes:
    low = bytearray()
    while number > 127:
        low.append(number & 127 | 128)
        number >>= 7
    return bytes(low) + bytes([number])
