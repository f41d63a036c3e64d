"""TFRecord framing, checksums and the Example's wire form, against bytes worked out by hand and a slow reader."""

import gzip
import random
import struct
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cluemap.data.formats.mtlcc_tile import Tile, read_tile
from cluemap.data.formats.mtlcc_writer import write_tile
from cluemap.data.formats.tfrecord import LIMIT, masked_crc, read_example, unpack, write_example
from cluemap.errors import DataError

# An Example of two features, byte by byte: "a" = the bytes 07 08, "n" = the numbers 3 and 300.
BY_HAND = bytes.fromhex(
    "0a19"  # Example: field 1 (Features), 25 bytes
    "0a0b" "0a0161" "1206" "0a04" "0a020708"  # entry: name "a", Feature{1: BytesList{1: 07 08}}
    "0a0a" "0a016e" "1205" "1a03" "0a0103"  # entry: name "n", Feature{3: Int64List{1: packed 3}}
)  # fmt: skip


def framed(example: bytes) -> bytes:
    length = struct.pack("<Q", len(example))
    return length + struct.pack("<I", slow_masked_crc(length)) + example + struct.pack("<I", slow_masked_crc(example))


def slow_masked_crc(content: bytes) -> int:
    """CRC-32C bit by bit (polynomial 0x82F63B78, reflected), then TFRecord's mask."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def packed(path, stream: bytes):
    path.write_bytes(gzip.compress(stream, compresslevel=1, mtime=0))
    return path


def small_tile(path, dates: int = 3, padded: int = 5) -> None:
    rng = np.random.default_rng(7)
    shapes = ((24, 4), (12, 6), (4, 3))
    images = [rng.integers(1, 5000, (dates, side, side, bands)) for side, bands in shapes]
    day = np.array([40, 131, 250, 251, 300])[:dates]
    write_tile(path, *images, day, np.full(dates, 2017), rng.choice([0, 3, 22, 26], (24, 24)), padded=padded)


@pytest.mark.parametrize("content", [b"", b"123456789", bytes(range(256)) * 3])
def test_checksum_is_the_slow_one(content):
    assert masked_crc(content) == slow_masked_crc(content)


def test_checksum_of_the_standard():
    crc = masked_crc(b"123456789") - 0xA282EAD8 & 0xFFFFFFFF
    assert (crc << 15 | crc >> 17) & 0xFFFFFFFF == 0xE3069283  # RFC 3720's check value


def test_hand_made_bytes_are_read(tmp_path):
    features = read_example(packed(tmp_path / "a.gz", framed(BY_HAND)))
    assert {name: feature.numbers for name, feature in features.items()} == {"a": None, "n": (3,)}
    assert bytes(features["a"].span.content) == b"\x07\x08"
    assert features["a"].span.start == 12 + BY_HAND.index(b"\x07\x08")


def test_written_bytes_are_those_made_by_hand(tmp_path):
    write_example(tmp_path / "a.gz", {"a": b"\x07\x08", "n": (3,)})
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == framed(BY_HAND)


def test_what_is_written_is_read(tmp_path):
    content = {"empty": b"", "long": bytes(70_000), "numbers": (0, 1, 127, 128, 300, 2**40), "none": ()}
    write_example(tmp_path / "a.gz", content)
    features = read_example(tmp_path / "a.gz")
    found = {name: bytes(f.span.content) if f.numbers is None else f.numbers for name, f in features.items()}
    assert found == content


def test_same_content_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_example(tmp_path / name, {"x": bytes(range(256)) * 50})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    header = "1f8b0800" + "00000000" + "00ff"  # neither name nor time nor system, whatever the Python
    assert (tmp_path / "a").read_bytes()[:10] == bytes.fromhex(header)


@pytest.mark.parametrize(
    ("stream", "at", "what"),
    [
        (b"", 0, "too few"),
        (framed(BY_HAND)[:-1], 0, "announced"),
        (framed(BY_HAND) + b"\x00", 0, "announced"),
        (b"\x01" + framed(BY_HAND)[1:], 8, "length does not match its checksum"),
        (framed(BY_HAND)[:-5] + b"\x04" + framed(BY_HAND)[-4:], 39, "record does not match"),
        (framed(b""), 12, "the Example is empty"),
        (framed(b"\x0a\x7f"), 12, "127 bytes, where the Example has 0 left"),
        (framed(b"\x0a" + b"\xff" * 12), 13, "does not end"),
        (framed(b"\x12\x00"), 12, "field 2 of wire type 2"),
        (framed(b"\x08\x00"), 12, "field 1 of wire type 0"),
        (framed(b"\x0a\x00\x0a\x00"), 14, "more than 1 fields"),
        (framed(b"\x0a\x02\x0a\x00"), 16, "without its name or its value"),
        (framed(b"\x0a\x09\x0a\x07\x0a\x01a\x12\x02\x12\x00"), 21, "field 2 of wire type 2"),  # a FloatList
        (framed(b"\x0a\x07\x0a\x05\x0a\x01a\x12\x00"), 21, "'a' is empty"),
        (framed(b"\x0a" + bytes([26]) + BY_HAND[2:15] * 2), 29, "'a' a second time"),
        (framed(b"\x0a" + bytes([130, 1]) + b"\x0a\x00" * 65), 17, "without its name"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_damage_is_placed(tmp_path, stream, at, what):
    with pytest.raises(DataError, match=rf"byte {at} of the decompressed stream: .*{what}") as refused:
        read_example(packed(tmp_path / "a.gz", stream))
    assert str(tmp_path / "a.gz") in str(refused.value)


def test_too_many_numbers_are_refused(tmp_path):
    write_example(tmp_path / "a.gz", {"n": (1,) * 65})
    with pytest.raises(DataError, match="more than 64 numbers"):
        read_example(tmp_path / "a.gz")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda content: content[:-3], "stop early"),
        (lambda content: content[:1], "stop early"),
        (lambda content: b"", "stop early"),
        (lambda content: content + b"x", "file continues"),
        (lambda content: content + content, "file continues"),
        (lambda content: b"PK" + content[2:], "damaged here"),
        (lambda content: content[:-8] + bytes(4) + content[-4:], "damaged here"),  # gzip's own checksum
    ],
)
def test_damage_to_the_packed_file_is_placed(tmp_path, change, what):
    path = tmp_path / "a.gz"
    path.write_bytes(change(gzip.compress(framed(BY_HAND), mtime=0)))
    with pytest.raises(DataError, match=rf"byte \d+ of the packed file: .*{what}") as refused:
        read_example(path)
    assert str(path) in str(refused.value)


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.gz is missing"):
        read_example(tmp_path / "gone.gz")
    with pytest.raises(DataError, match="cannot be read"):
        read_example(tmp_path)


def bomb(packed_size: int) -> bytes:
    """A gzip file of `packed_size` bytes that unpacks to about a thousand times as much."""
    zipper = zlib.compressobj(wbits=31)
    return b"".join(zipper.compress(bytes(2**20)) for _ in range(packed_size // 1000)) + zipper.flush()


def empty_blocks(count: int) -> bytes:
    """A gzip file that goes on for 5 bytes a block and never unpacks to anything."""
    return gzip.compress(b"", mtime=0)[:10] + b"\x00\x00\x00\xff\xff" * count


@pytest.mark.parametrize(("make", "size"), [(bomb, 100_000), (empty_blocks, LIMIT // 5 + 10_000)])
def test_bombs_cost_no_more_than_the_limit(tmp_path, make, size):
    (tmp_path / "a.gz").write_bytes(make(size))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="more than"):
            unpack(tmp_path / "a.gz")
        assert tracemalloc.get_traced_memory()[1] < 3 * LIMIT
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------------------------------------------- the fuzz


def lengths_of(example: bytes, at: int, end: int, depth: int = 0) -> Iterator[tuple[int, int, int]]:
    """-> depth, first and last byte + 1 of each field's length in an Example (a slow parse that trusts it)."""
    while at < end:
        key, start, length = example[at] >> 3, at + 1, 0
        at = start
        while True:
            length |= (example[at] & 127) << 7 * (at - start)
            at += 1
            if example[at - 1] < 128:
                break
        yield depth, start, at
        if depth < 4 and not (depth == 2 and key == 1):  # into everything but names and values
            yield from lengths_of(example, at, at + length, depth + 1)
        at += length


def varint(number: int) -> bytes:
    low = []
    while number > 127:
        low.append(number % 128 + 128)
        number //= 128
    return bytes([*low, number])


class Mutator:
    """Damages one good file in the ways that files get damaged, and in those that a hostile one would be."""

    def __init__(self, path: Path, seed: int) -> None:
        self.rng, self.path = random.Random(seed), path
        read = read_example(path).items()
        self.features = {name: f.numbers if f.numbers is not None else bytes(f.span.content) for name, f in read}
        self.packed = path.read_bytes()
        self.stream = gzip.decompress(self.packed)
        self.example = self.stream[12:-4]
        found = list(lengths_of(self.example, 0, len(self.example)))
        self.lengths = [(start, end) for _, start, end in found]
        self.innermost = {(start, end) for depth, start, end in found if depth == 4}
        names = (b"x10/shape", b"x20/shape", b"x60/shape", b"labels/shape", b"dates/shape")
        self.shapes = [self.example.index(name) + len(name) for name in names]
        self.structure = self.outside_of_arrays()

    def outside_of_arrays(self) -> list[int]:
        """The bytes of the Example that are tags, lengths, names and shapes; int64 arrays are its long fields."""
        inside = np.zeros(len(self.example), bool)
        for start, end in self.lengths:
            length = sum((byte & 127) << 7 * place for place, byte in enumerate(self.example[start:end]))
            if (start, end) in self.innermost and length >= 40:
                inside[end : end + length] = True
        return np.flatnonzero(~inside).tolist()

    def flipped(self, content: bytes, places=None) -> bytes:
        changed = bytearray(content)
        for _ in range(self.rng.choice((1, 1, 1, 2, 8))):
            at = self.rng.choice(places) if places else self.rng.randrange(len(changed))
            changed[at] ^= 1 << self.rng.randrange(8)
        return bytes(changed)

    def cut(self, content: bytes) -> bytes:
        return content[: self.rng.randrange(len(content))]

    def without_middle(self, content: bytes) -> bytes:
        first, last = sorted(self.rng.sample(range(len(content)), 2))
        return content[:first] + content[last:]

    def swapped_lengths(self) -> bytes:
        (a, b), (c, d) = sorted(self.rng.sample(self.lengths, 2))
        e = self.example
        return e[:a] + e[c:d] + e[b:c] + e[a:b] + e[d:]

    def another_length(self) -> bytes:
        start, end = self.rng.choice(self.lengths)
        number = self.rng.choice((0, 1, 7, 8, 255, 2**16, 2**31 - 1, 2**32, 2**63, 2**64 - 1, 2**69))
        return self.example[:start] + varint(number) + self.example[end:]

    def wrong_shape(self) -> bytes:
        """Another shape in its place, with all lengths around it kept right."""
        at = self.rng.choice(self.shapes)
        sizes = [self.rng.choice((0, 1, 3, 4, 5, 6, 12, 24, 25, 48, 100, 127)) for _ in range(self.example[at + 5])]
        return self.example[: at + 6] + bytes(sizes) + self.example[at + 6 + len(sizes) :]

    def other_features(self) -> bytes:
        """A sound file of features that are not a tile's."""
        features = dict(self.features)
        name, other = self.rng.sample(sorted(features), 2)
        value, kind = features.pop(name), self.rng.randrange(6)
        if kind == 0:
            features[name + "/"] = value
        elif kind == 1:
            features[name], features[other] = features[other], value
        elif kind == 2:
            features[name] = (1, 2) if isinstance(value, bytes) else bytes(16)
        elif kind == 3:
            features[name] = value[:-8] if isinstance(value, bytes) else value[:-1]
        elif kind == 4:
            features[name] = value * 3
        elif isinstance(value, bytes):
            features[name] = bytes(2**20)
        else:
            features[name] = tuple(self.rng.choice((0, 5, 2**20, 2**31, 2**64 - 1, 2**69)) for _ in value)
        write_example(self.path, features)
        return self.path.read_bytes()

    def __call__(self) -> tuple[bytes, bool]:
        """-> a file, and whether its checksums were made again over changed values: then it may read as others."""
        kind = self.rng.randrange(13)
        if kind == 12:
            return self.other_features(), False
        if kind < 4:
            change = (self.flipped, self.flipped, self.cut, self.without_middle)[kind]
            return change(self.packed), False
        if kind < 7:
            change = (self.flipped, self.cut, self.without_middle)[kind - 4]
            return gzip.compress(change(self.stream), 1, mtime=0), False
        if kind < 11:
            make = (
                lambda: self.flipped(self.example, self.structure),
                self.swapped_lengths,
                self.another_length,
                self.wrong_shape,
            )[kind - 7]
            return gzip.compress(reframed(make()), 1, mtime=0), False
        return gzip.compress(reframed(self.flipped(self.example)), 1, mtime=0), True


def reframed(example: bytes) -> bytes:
    """As `framed`, with the fast checksum (tested above): the fuzz makes a thousand."""
    length = struct.pack("<Q", len(example))
    return length + struct.pack("<I", masked_crc(length)) + example + struct.pack("<I", masked_crc(example))


def same(tile, other) -> bool:
    return all(np.array_equal(getattr(tile, name), getattr(other, name)) for name in ("images", "days", "labels"))


def read_or_refused(path: Path) -> tuple[Tile | None, str]:
    try:
        return read_tile(path, 24), ""
    except DataError as error:
        return None, str(error)


@pytest.mark.slow
def test_fuzz_2000_files(tmp_path, capsys):
    """Each file reads to the same arrays or is refused by name and byte: no crash, no hang, no more than 200 MB."""
    path = tmp_path / "1.tfrecord.gz"
    small_tile(path)
    good, mutate = read_tile(path, 24), Mutator(path, seed=11)
    read, refused, other, peak, longest = 0, 0, 0, 0, 0.0
    tracemalloc.start()
    try:
        for number in range(2000):
            content, may_differ = mutate()
            path.write_bytes(content)
            tracemalloc.reset_peak()
            began = time.perf_counter()
            tile, error = read_or_refused(path)
            if tile is None:
                assert str(path) in error
                assert " byte " in error, f"file {number}: {error}"
                refused += 1
            else:
                equal = same(tile, good)
                assert equal or may_differ, f"file {number} reads as another tile"
                read, other = read + equal, other + (not equal)
            longest = max(longest, time.perf_counter() - began)
            peak = max(peak, tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    with capsys.disabled():
        print(
            f"\nfuzz: {refused} refused, {read} read the same, {other} read as what their new checksum vouches for; "
            f"peak {peak / 1e6:.1f} MB, longest {1000 * longest:.0f} ms"
        )
    assert peak < 200e6
    assert longest < 5
    assert refused > 1000  # the mutator does its work
    assert read > 10
