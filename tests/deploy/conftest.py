"""What the tests of deployment share with those of the service."""

from tests.serve.conftest import client, index_path

__all__ = ["client", "index_path"]
