"""What measures this project: times in seconds, memory in bytes, each report with what it ran on. Not in the wheel."""
