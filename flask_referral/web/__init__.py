"""Everything that touches ``flask.request``."""
