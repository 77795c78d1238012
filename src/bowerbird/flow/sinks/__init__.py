"""Where elements go: one module for each kind of file."""
