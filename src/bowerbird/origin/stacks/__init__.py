"""One module for each original stack: `open_...` makes an `Original` of a source."""
