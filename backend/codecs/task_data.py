"""Groups of images -> Label Studio tasks for the configs of `write_config`; the way back is `task_images`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from backend.codecs.config_writer import PARTS
from backend.codecs.parts import unknown_parts
from calico.data.image_files import BUCKET_SCHEMES, is_address, relative_names, scheme_of
from calico.errors import InputError
from calico.values import whole_number

ORIGINALS = "originals"  # the task's key of the images that it shows reduced copies of


class Original(NamedTuple):
    """file: its path, as `ImageFolder` finds it. size_hw: (height, width), upright."""

    file: str
    size_hw: tuple[int, int]


def task_of(
    addresses: Sequence[str], layout: str, *, name: str = "", originals: Sequence[Original] = ()
) -> dict[str, Any]:
    """One task, as the host imports it. layout: A gives the keys image1, image2, ...; B the list `images`.

    name: what the images share, kept under the key `group`, which the data manager shows as a column. originals: where
    the addresses are of reduced copies, one for each. The key `parts` holds the labels of its group: before anything is
    predicted, `object` and `other part`.
    """
    data: dict[str, Any] = {"group": name} if name else {}
    if layout == "A":
        data |= {f"image{i}": address for i, address in enumerate(addresses, start=1)}
    elif layout == "B":
        data["images"] = list(addresses)
    else:
        raise InputError(f"layout: expected A or B, got {layout!r}")
    return {"data": data | originals_data(originals) | {PARTS: unknown_parts()}}


def originals_data(originals: Sequence[Original]) -> dict[str, Any]:
    """What a task's data says of the images that it shows reduced copies of; nothing without any."""
    rows = [{"file": o.file, "height": o.size_hw[0], "width": o.size_hw[1]} for o in originals]
    return {ORIGINALS: rows} if rows else {}


def originals_of(data: Mapping[str, Any], num_images: int) -> tuple[Original, ...]:
    """What a task's images are reduced copies of, one for each image; empty where they are the images themselves.

    Raises InputError where the task says it otherwise than `task_of` does: masks would get a wrong size.
    """
    entries = data.get(ORIGINALS)
    if entries is None:
        return ()
    originals = []
    for item in entries if isinstance(entries, list) else ():
        row = item if isinstance(item, Mapping) else {}
        height, width = whole_number(row.get("height")), whole_number(row.get("width"))
        if isinstance(row.get("file"), str) and height and width and min(height, width) > 0:
            originals.append(Original(row["file"], (height, width)))
    if len(originals) != num_images:
        raise InputError(
            f"task data: expected {ORIGINALS!r} with file, height and width of {num_images} images, got "
            f"{len(originals)} such; correct them in the task, or make it anew with `calico project groups --max-side`"
        )
    return tuple(originals)


def task_address(source: str, folder: Path, *, prefix: str | None = None, document_root: Path | None = None) -> str:
    """The address under which the host finds a source; what is an address already stays as it is.

    prefix: the address of `folder`. Without it the host serves the file itself, from below its
    LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, by default the folder above `folder` (the host wants a local-files storage
    in a *sub*-folder of its root).
    """
    if is_address(source):
        return source
    root = folder.resolve() if prefix is not None else (document_root or folder.resolve().parent).resolve()
    try:
        relative = Path(source).resolve().relative_to(root).as_posix()
    except ValueError:
        option = "--prefix" if prefix is None else "another folder"
        raise InputError(f"{source}: not below {root}, where the host would look; give {option}") from None
    return f"/data/local-files/?d={quote(relative)}" if prefix is None else address_below(prefix, relative)


def address_below(prefix: str, name: str) -> str:
    """The address of a file under the address of its folder. A bucket's keys are literal; the web's are quoted."""
    relative = next(iter(relative_names(name)), name)
    is_bucket = scheme_of(prefix) in BUCKET_SCHEMES
    return f"{prefix.rstrip('/')}/{relative if is_bucket else quote(relative)}"
