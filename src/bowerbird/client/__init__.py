"""Asking a running service from Python, with or without `async`; needs nothing of the extra `serve`."""
