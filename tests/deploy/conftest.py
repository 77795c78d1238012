"""What the tests of deployment share with those of the service."""

from tests.serve.conftest import index_path

__all__ = ["index_path"]
