"""The command line of the project: one thin verb per file, run as `calico VERB`."""
