"""Where vectors live: the contract of a table, its Lance implementation, and the manifest."""
