"""A model directory becomes an `Encoder`."""
