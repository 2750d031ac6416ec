"""The shipped migrations: a Flask-Migrate folder with a version table of its own."""
