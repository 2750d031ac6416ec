"""Row level security (PostgreSQL)."""
