"""An index and its models as a service: HTTP, a page for people, Ray Serve, and clients."""
