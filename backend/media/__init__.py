"""The images of tasks: fetched safely, kept on disk."""
