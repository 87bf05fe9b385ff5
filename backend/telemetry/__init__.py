"""What is counted, timed and logged, and what a log may not hold."""
