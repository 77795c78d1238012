"""Align and fine-tune on the user's own pairs: from a table of pairs to a model like any other."""
