"""Graphs, the engines that run them, and in which precision."""
