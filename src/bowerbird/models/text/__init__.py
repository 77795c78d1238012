"""Texts on their way into a network, and out of it."""
