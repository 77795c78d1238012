"""Chained steps over records and anything else; see `bowerbird.collection.collection`."""
