"""A question becomes ranked answers."""
