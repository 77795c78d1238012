"""Where elements come from: one module for each kind of place."""
