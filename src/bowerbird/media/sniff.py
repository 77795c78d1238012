"""What a file is, told from its bytes and never from what its name promises.

The answer decides which single Pillow plugin may look at the file, so nothing that runs other programs
(EPS, WMF) or reads documents (PDF) is ever reached, and it lets an error say what the file is instead of
a picture.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

# Plugins are imported one by one: `PIL.Image.init()` would import all of them, the unsafe ones too.
PLUGINS = {
    "JPEG": "JpegImagePlugin",
    "PNG": "PngImagePlugin",
    "GIF": "GifImagePlugin",
    "WEBP": "WebPImagePlugin",
    "BMP": "BmpImagePlugin",
    "DIB": "BmpImagePlugin",
    "TIFF": "TiffImagePlugin",
    "AVIF": "AvifImagePlugin",
    "JPEG2000": "Jpeg2KImagePlugin",
    "PPM": "PpmImagePlugin",
    "TGA": "TgaImagePlugin",
    "ICO": "IcoImagePlugin",
    "PSD": "PsdImagePlugin",
}

# (magic, offset, Pillow's name of the format)
_PICTURES: tuple[tuple[bytes, int, str], ...] = (
    (b"\xff\xd8\xff", 0, "JPEG"),
    (b"\x89PNG\r\n\x1a\n", 0, "PNG"),
    (b"GIF87a", 0, "GIF"),
    (b"GIF89a", 0, "GIF"),
    (b"WEBP", 8, "WEBP"),
    (b"BM", 0, "BMP"),
    (b"II*\0", 0, "TIFF"),
    (b"MM\0*", 0, "TIFF"),
    (b"II+\0", 0, "TIFF"),
    (b"MM\0+", 0, "TIFF"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", 0, "JPEG2000"),
    (b"\xff\x4f\xff\x51", 0, "JPEG2000"),
    (b"8BPS", 0, "PSD"),
    (b"\0\0\1\0", 0, "ICO"),
)

# (magic, offset, what the file is); tried after the pictures, in this order.
_OTHERS: tuple[tuple[bytes, int, str], ...] = (
    (b"%PDF-", 0, "a PDF"),
    (b"%!PS", 0, "a PostScript (EPS) file"),
    (b"\xc5\xd0\xd3\xc6", 0, "a PostScript (EPS) file"),
    (b"\xd7\xcd\xc6\x9a", 0, "a Windows metafile (WMF)"),
    (b" EMF", 40, "a Windows metafile (EMF)"),
    (b"\xff\x0a", 0, "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL ", 0, "a JPEG XL picture"),
    (b"v/1\x01", 0, "an OpenEXR picture"),
    (b"#?RADIANCE", 0, "a Radiance HDR picture"),
    (b"DDS ", 0, "a DDS texture"),
    (b"icns", 0, "an Apple icon file"),
    (b"FUJIFILMCCD-RAW", 0, "a camera raw file"),
    (b"IIRO", 0, "a camera raw file"),
    (b"IIU\0", 0, "a camera raw file"),
    (b"AVI ", 8, "a video"),
    (b"\x1aE\xdf\xa3", 0, "a video"),
    (b"\0\0\1\xba", 0, "a video"),
    (b"\0\0\1\xb3", 0, "a video"),
    (b"FLV\1", 0, "a video"),
    (b"WAVE", 8, "a sound file"),
    (b"ID3", 0, "a sound file"),
    (b"fLaC", 0, "a sound file"),
    (b"OggS", 0, "a sound or video file"),
    (b"PK\3\4", 0, "a ZIP archive or office document"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", 0, "an office document"),
    (b"\x1f\x8b", 0, "a compressed archive"),
    (b"7z\xbc\xaf\x27\x1c", 0, "a compressed archive"),
    (b"Rar!\x1a\x07", 0, "a compressed archive"),
    (b"SQLite format 3\0", 0, "a database"),
    (b"\x7fELF", 0, "a program"),
    (b"MZ", 0, "a program"),
)

_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_DIB_HEADERS = {12, 40, 52, 56, 64, 108, 124}
# TGA has no magic number: it is believed only with its footer, or when the name says so.
_TGA_SUFFIXES = (".tga", ".icb", ".vda", ".vst")
_HEAD = 4096


@dataclass(frozen=True)
class Kind:
    """What a file is.

    Attributes:
        label: with its article, to follow "is": `a JPEG`, `a PDF`, `a text file`.
        format: Pillow's name of the format; empty when the file is not a picture that is supported.
    """

    label: str
    format: str = ""


def sniff(data: bytes, name: str = "") -> Kind:
    """Tell what `data` is; `name` counts for TGA only, which has no magic number."""
    head = data[:_HEAD]
    if data.endswith(b"TRUEVISION-XFILE.\0"):
        return _picture("TGA")
    return _by_magic(head) or _boxed(head) or _text(head) or _by_weak_signs(head, name)


def icon_pixels(data: bytes) -> int:
    """The pixels of the largest picture inside an ICO file, from the headers of the pictures themselves.

    The directory of an ICO holds sizes up to 256 only, while the PNG it points to may be of any size, and
    Pillow decodes it as soon as the file is opened.
    """
    largest = 0
    (count,) = struct.unpack_from("<H", data.ljust(6, b"\0"), 4)
    for entry in range(6, min(6 + 16 * count, len(data) - 15), 16):
        (start,) = struct.unpack_from("<I", data, entry + 12)
        header = data[start : start + 24]
        if len(header) < 24:
            continue
        png = header.startswith(b"\x89PNG")
        width, height = struct.unpack_from(">II", header, 16) if png else struct.unpack_from("<ii", header, 4)
        largest = max(largest, abs(width * height))
    return largest


def _picture(found: str) -> Kind:
    names = {"WEBP": "WebP", "JPEG2000": "JPEG 2000"}
    article = "an" if found in ("AVIF", "ICO") else "a"
    return Kind(f"{article} {names.get(found, found)}", found)


def _by_magic(head: bytes) -> Kind | None:
    for magic, offset, found in _PICTURES:
        if head.startswith(magic, offset):
            return _picture(found)
    if head[:1] == b"P" and head[1:2] in b"123456fF" and head[2:3].isspace():
        return _picture("PPM")
    for magic, offset, label in _OTHERS:
        if head.startswith(magic, offset):
            return Kind(label)
    return None


def _by_weak_signs(head: bytes, name: str) -> Kind:
    if name.lower().endswith(_TGA_SUFFIXES) and head[1:2] in (b"\0", b"\1"):
        return _picture("TGA")
    if int.from_bytes(head[:4], "little") in _DIB_HEADERS and len(head) >= 16:
        return _picture("DIB")
    return Kind("of an unknown kind" if any(head) else "a run of zero bytes")


def _boxed(head: bytes) -> Kind | None:
    """Files that begin with an ISO `ftyp` box: AVIF, HEIF, raw pictures and most videos."""
    if head[4:8] != b"ftyp":
        return None
    size = min(int.from_bytes(head[:4], "big"), 256)
    brands = {head[8:12]} | {head[at : at + 4] for at in range(16, size, 4)}
    if brands & {b"avif", b"avis"}:
        return _picture("AVIF")
    if brands & _HEIF_BRANDS:
        return Kind("a HEIF (HEIC)", "HEIF")
    if head[8:12] == b"crx ":
        return Kind("a camera raw file")
    return Kind("a sound file" if head[8:11] == b"M4A" else "a video")


def _text(head: bytes) -> Kind | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return Kind("a text file")
    if any(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head):
        return None
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        # The head may end in the middle of a character.
        if error.start < _HEAD - 4:
            return None
        text = head[: error.start].decode("utf-8")
    start = text.lstrip("\ufeff \t\r\n").lower()
    if start.startswith(("<!doctype html", "<html")):
        return Kind("an HTML page")
    if start.startswith("<svg") or (start.startswith("<?xml") and "<svg" in start):
        return Kind("an SVG drawing")
    return Kind("a text file")
