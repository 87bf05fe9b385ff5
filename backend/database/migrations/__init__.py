"""Steps from any earlier database to the one of `backend/database/schema.py`, for Alembic."""
