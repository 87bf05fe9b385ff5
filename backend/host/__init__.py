"""Label Studio's API: the connection, and one method per thing asked of it."""
