"""Routes, who may ask, pages for people, metrics, and the server they run in."""
