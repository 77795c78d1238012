"""A catalogue of garments into an index, on a Ray cluster.

    ray job submit --working-dir docs/jobs -- python fashion.py TABLE --images FOLDER --index PLACE

TABLE is a CSV file with the columns `image_path` and `caption`; all three may lie in an object store.
"""

from __future__ import annotations

import argparse

import bowerbird as bb


def main() -> None:
    """Read the arguments, embed both parts of every record, and write the index."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table")
    parser.add_argument(
        "--images", default="", help="folder or address that paths of pictures are relative to"
    )
    parser.add_argument("--index", required=True, help="path or address of the index")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--delimiter", default="#")
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    report = (
        bb.Collection.from_csv(
            given.table, delimiter=given.delimiter, image="image_path", text="caption", root=given.images
        )
        .drop_missing("image")
        .embed(given.model)
        .on(bb.Ray(workers=given.workers))
        .write(given.index)
    )
    print(report.summary())
    print(report.verdict)


if __name__ == "__main__":
    main()
