"""Many files, streamed: what there is, and how it is worked through."""
