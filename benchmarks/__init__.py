"""One file for each headline number; see README.md."""

import os

# What is installed has its bytecode. Where Python is told to keep none, each process of a benchmark would compile ours.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
