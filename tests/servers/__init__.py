"""Real servers, stand-ins for those that cannot be had, and a bad network, for tests."""
