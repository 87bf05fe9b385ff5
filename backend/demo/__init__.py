"""The demo's own Label Studio, backend and groups, as child processes."""
