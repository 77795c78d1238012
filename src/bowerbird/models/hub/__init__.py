"""Where models come from: the hub, the catalogue, what was pulled before."""
