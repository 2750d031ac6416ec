"""What keeps the tables small, and a person's data in that person's hands."""
