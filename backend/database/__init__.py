"""What has to survive a restart, and what several backends have to agree on: one database, its tables, its locks."""
