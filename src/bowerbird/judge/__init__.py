"""The proof: a model against reference arrays, and what every wrong condition would cost."""
