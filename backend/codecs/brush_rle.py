"""Label Studio's brush RLE: a bit stream of runs over the RGBA values of a mask.

Most significant bit first: 32-bit number of values (4 x H x W), 5-bit word size - 1 (= 7), four 4-bit size - 1 of a run
length (3, 4, 8, 16). Then runs: 1 bit "repeats", 2 bits choosing a size, run length - 1 in that many bits, then one
8-bit value if it repeats, else one per element. Row-major; a pixel is set where alpha, its fourth value, is above 0.
Encoding is byte-identical to label-studio-sdk's `mask2rle` of a 0/255 mask. The editor's own streams may end in another
number of padding bytes: compare masks, never lists.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calico.errors import InputError

SIZES = (3, 4, 8, 16)
WORD = 8
HEADER_BITS = 32 + 5 + 4 * 4
_MAX_RUN = 1 << SIZES[-1]
_VALUES_AT_ONCE = 1 << 20


def encode(mask: np.ndarray) -> list[int]:
    """HxW bool -> the bytes of the stream as integers 0 to 255, for JSON. Set pixels become 255 in all channels."""
    if mask.ndim != 2 or mask.dtype != np.bool_ or mask.size == 0:
        raise InputError(
            f"brush RLE: expected a bool HxW mask, got {mask.dtype} {mask.shape}; convert it with `mask > 0`"
        )
    if 4 * mask.size >= 1 << 32:
        raise InputError(
            f"brush RLE: the format holds up to {(1 << 30) - 1} pixels, got {mask.shape}; scale the image down"
        )
    flat = mask.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    lengths = 4 * np.diff(ends, prepend=0)
    values = np.where(flat[ends - 1], 255, 0)

    # A run beyond 65536 is as many full runs as fit, then the rest, always in the largest size.
    num_full = (lengths - 1) // _MAX_RUN
    choice = np.searchsorted(1 << np.array(SIZES[:-1]), lengths)  # runs end on multiples of 4, so none has length 1
    last = np.cumsum(num_full + 1) - 1
    run_lengths = np.full(last[-1] + 1, _MAX_RUN)
    run_lengths[last] = lengths - num_full * _MAX_RUN
    choice, values = np.repeat(choice, num_full + 1), np.repeat(values, num_full + 1)

    # Every token: 1, choice, length - 1, value; laid into a 40-bit window that starts at its first byte.
    size = np.array(SIZES)[choice]
    num_bits = 3 + size + WORD
    tokens = (((4 + choice) << size | run_lengths - 1) << WORD) | values
    starts = HEADER_BITS + np.cumsum(num_bits) - num_bits
    total_bits = int(starts[-1] + num_bits[-1])
    first_byte = starts >> 3
    windows = tokens << (40 - (starts & 7) - num_bits)
    header = 4 * flat.size << 21 | (WORD - 1) << 16
    for k, bits in enumerate(SIZES):
        header |= bits - 1 << 12 - 4 * k
    # The sdk pads with 1 to 8 zero bits: a whole zero byte where the stream is already full.
    packed = np.zeros(total_bits // 8 + 1 + 5, np.int64)
    packed[:7] = list((header << 3).to_bytes(7, "big"))
    for k in range(5):
        # No two tokens share a bit, so adding is or-ing.
        packed += np.bincount(first_byte + k, windows >> 8 * (4 - k) & 255, packed.size).astype(np.int64)
    return packed[: total_bits // 8 + 1].tolist()


def decode(rle: Sequence[int] | np.ndarray, height: int, width: int) -> np.ndarray:
    """The stream's mask as HxW bool. `InputError` where it is not a stream of an image of that size."""
    data = _as_bytes(rle)
    num_values = 4 * height * width
    head = int.from_bytes(data[:7], "big") >> 3
    if len(data) < 7:
        raise InputError(f"brush RLE: expected at least 7 bytes, got {len(data)}; the list was cut short")
    if head >> 21 != num_values:
        raise InputError(
            f"brush RLE: its header says {head >> 21} values, an image of {height} x {width} (height x width) has "
            f"{num_values}; send the mask of the original image"
        )
    if head >> 16 & 31 != WORD - 1:
        raise InputError(f"brush RLE: expected words of {WORD} bits, got {(head >> 16 & 31) + 1}; re-export the region")
    sizes = tuple((head >> 12 - 4 * k & 15) + 1 for k in range(4))
    max_bytes = 16 + num_values * (3 + max(sizes) + WORD) // 8  # header and some padding, then only single values
    if len(data) > max_bytes:
        raise InputError(
            f"brush RLE: {len(data)} bytes cannot belong to an image of {height} x {width}; re-export the region"
        )

    starts, repeats, size = _token_starts(data, sizes, num_values)
    padded = np.frombuffer(data + bytes(8), np.uint8)
    lengths = _read(padded, starts + 3, size) + 1
    ends = np.cumsum(lengths)
    num_tokens = int(np.searchsorted(ends, num_values)) + 1
    # Behind the last run lies padding, which reads as tokens too; it is cut off here.
    if num_tokens > ends.size or ends[num_tokens - 1] != num_values:
        got = int(ends[min(num_tokens, ends.size) - 1]) if ends.size else 0
        raise InputError(
            f"brush RLE: its runs hold {got} values where the header says {num_values}; re-export the region"
        )
    starts, repeats, size = starts[:num_tokens], repeats[:num_tokens], size[:num_tokens]
    lengths, ends = lengths[:num_tokens], ends[:num_tokens]
    value_at = starts + 3 + size
    if int(value_at[-1] + WORD * (1 if repeats[-1] else lengths[-1])) > 8 * len(data):
        raise InputError(f"brush RLE: {len(data)} bytes end within a run; the list was cut short")

    mask = np.zeros(height * width, np.bool_)
    # Alpha stands at 4k + 3, so values [a, b) hold the alphas of pixels [a // 4, b // 4).
    begins = ends - lengths
    on = repeats.copy()
    on[on] = _read(padded, value_at[on], WORD) > 0
    for a, b in zip((begins[on] >> 2).tolist(), (ends[on] >> 2).tolist(), strict=True):
        mask[a:b] = True
    if not repeats.all():
        single = np.flatnonzero(~repeats)
        part = np.cumsum(lengths[single]) // _VALUES_AT_ONCE  # by and by: indices take many times the values' room
        for tokens in np.split(single, np.flatnonzero(np.diff(part)) + 1):
            counts = lengths[tokens]
            within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
            index = np.repeat(begins[tokens], counts) + within
            alpha = index & 3 == 3
            bits = (np.repeat(value_at[tokens], counts) + WORD * within)[alpha]
            mask[index[alpha] >> 2] = _read(padded, bits, WORD) > 0
    return mask.reshape(height, width)


def _as_bytes(rle: Sequence[int] | np.ndarray) -> bytes:
    if not isinstance(rle, (list, tuple, bytes, np.ndarray)):
        got = type(rle).__name__
        raise InputError(f"brush RLE: expected a list of integers 0 to 255, got {got}; re-export the region")
    try:
        return bytes(rle if isinstance(rle, (list, tuple, bytes)) else rle.tolist())
    except (ValueError, TypeError) as error:
        raise InputError(
            "brush RLE: expected a list of integers 0 to 255, got other values; re-export the region"
        ) from error


def _token_starts(data: bytes, sizes: tuple[int, ...], num_values: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First bit, "repeats" and size of every token, padding included; the only step that must go one by one.

    No more than there can be in `num_values` values: each token holds one or more.
    """
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    codes = (bits[:-2] << 2 | bits[1:-1] << 1 | bits[2:]).tobytes()  # flag and choice as seen from every bit
    steps = [0, 0, 0, 0] + [3 + size + WORD for size in sizes]
    window = int.from_bytes
    starts: list[int] = []
    at, end = HEADER_BITS, len(codes)
    while at < end and len(starts) <= num_values:
        starts.append(at)
        code = codes[at]
        if code > 3:
            at += steps[code]
        else:
            size, first = sizes[code], at + 3
            span = window(data[first >> 3 : (first >> 3) + 3].ljust(3, b"\0"), "big")
            length = (span >> 24 - (first & 7) - size & (1 << size) - 1) + 1
            at = first + size + WORD * length
    positions = np.array(starts, np.int64)
    heads = np.frombuffer(codes, np.uint8)[positions]
    return positions, heads > 3, np.array(sizes, np.int64)[heads & 3]


def _read(padded: np.ndarray, starts: np.ndarray, num_bits: np.ndarray | int) -> np.ndarray:
    """Unsigned numbers of up to 16 bits that start at the given bits; zeros beyond the end."""
    first = np.minimum(starts >> 3, padded.size - 3)
    span = padded[first].astype(np.int64) << 16 | padded[first + 1].astype(np.int64) << 8 | padded[first + 2]
    return span >> 24 - (starts & 7) - num_bits & (1 << np.asarray(num_bits)) - 1
