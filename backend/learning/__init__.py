"""Events and corrections from the host, and training as jobs."""
