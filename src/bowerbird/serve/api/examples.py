"""Values for the OpenAPI document that work as they stand."""

from __future__ import annotations

PICTURE = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAQMAAAAlPW0iAAAABlBMVEX////cFDzQkLT4AAAAFElEQVR42mNgQAL8H5gYGDAR"
    "MgAAI20BDofI/jkAAAAASUVORK5CYII="
)
"""A red square on white, 16 x 16."""
