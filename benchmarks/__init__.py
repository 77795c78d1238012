"""One file for each headline number; see README.md."""
