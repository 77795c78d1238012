"""What a picture means and what it may cost: one frozen value object."""

from __future__ import annotations

from dataclasses import dataclass

from bowerbird.errors import BowerbirdError
from bowerbird.settings import Settings


@dataclass(frozen=True)
class DecodePolicy:
    """How pictures become pixels, and what they may cost.

    Attributes:
        exif: turn the picture upright. TIFF is turned by Pillow itself, always.
        alpha: `white` composites on white; `drop` shows the hidden colours, as `convert("RGB")` does.
        sixteen_bit: `scale` maps the full range to 0..255; `clamp` cuts above 255, as `convert` does. See
            `bowerbird.media.pixels.to_rgb`.
        scaled: the least ratio of decoded to wanted short side (at least 1) at which JPEG may be decoded
            at a half, a quarter or an eighth; None decodes in full.
        max_pixels: pictures of more pixels (width x height, of the full picture) are refused; 0: no cap.
        max_bytes: files of more bytes are refused; 0: no cap.
        seconds: time that reading may take, and decoding again; 0: no limit.

    Raises:
        BowerbirdError: a field holds something that is not allowed.
    """

    exif: bool = True
    alpha: str = "white"
    sixteen_bit: str = "scale"
    scaled: float | None = None
    max_pixels: int = Settings.max_pixels
    max_bytes: int = Settings.max_bytes
    seconds: float = Settings.decode_seconds

    def __post_init__(self) -> None:
        if self.alpha not in ("white", "drop"):
            raise BowerbirdError(f"alpha={self.alpha!r} is not known.", hint="Use 'white' or 'drop'.")
        if self.sixteen_bit not in ("scale", "clamp"):
            raise BowerbirdError(
                f"sixteen_bit={self.sixteen_bit!r} is not known.", hint="Use 'scale' or 'clamp'."
            )
        if self.scaled is not None and not self.scaled >= 1:
            raise BowerbirdError(
                f"scaled={self.scaled} would enlarge what was decoded too small.",
                hint="Use None or a ratio of at least 1; 2 is close to full decode, 3 closer.",
            )

    def meaning(self) -> dict[str, object]:
        """What changes the meaning of vectors; it is part of the fingerprint of an embedding space."""
        return {
            "exif": self.exif,
            "alpha": self.alpha,
            "sixteen_bit": self.sixteen_bit,
            "icc": "ignored",
            "frame": "first",
        }

    def numerics(self) -> dict[str, object]:
        """What changes vectors a little and leaves their meaning."""
        return {"scaled": self.scaled}
