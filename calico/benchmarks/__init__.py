"""What `calico benchmark` measures; times in seconds, memory in bytes, each report with what it ran on."""
