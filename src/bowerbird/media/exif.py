"""The two facts taken from EXIF: which way is up, and when the picture was taken."""

from __future__ import annotations

import re
from datetime import datetime

from PIL import Image

_ORIENTATION, _DATE_TIME, _EXIF_IFD, _DATE_TIME_ORIGINAL = 0x0112, 0x0132, 0x8769, 0x9003
_DATE = re.compile(r"\s*(\d{4})[:./-](\d\d)[:./-](\d\d)[ T](\d\d):(\d\d):(\d\d)")


def orientation_and_time(image: Image.Image) -> tuple[int, datetime | None]:
    """Orientation (1 to 8) and local time of a loaded picture; broken EXIF counts as none.

    Without an EXIF orientation the one in XMP counts, as in Pillow's `exif_transpose`.
    """
    try:
        # After load(): in PNG it may lie behind the pixels, and TIFF removes the orientation it has applied.
        exif = image.getexif()
        if not exif:
            return 1, None
        orientation = exif.get(_ORIENTATION, 1)
        turned = orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
    except Exception:  # noqa: BLE001 - see above
        return 1, None
    try:
        original = exif.get_ifd(_EXIF_IFD).get(_DATE_TIME_ORIGINAL)
        return turned, _moment(original) or _moment(exif.get(_DATE_TIME))
    except Exception:  # noqa: BLE001 - see above
        return turned, None


def _moment(text: object) -> datetime | None:
    """Read `YYYY:MM:DD HH:MM:SS`; None for anything else, zeros and years before photography included."""
    if isinstance(text, bytes):
        text = text.decode("ascii", "replace")
    match = _DATE.match(text) if isinstance(text, str) else None
    if match is None:
        return None
    try:
        moment = datetime(*(int(part) for part in match.groups()))  # type: ignore[arg-type]
    except ValueError:
        return None
    return moment if moment.year >= 1826 else None
