"""A whole project through the host's API."""
