"""Beside other extensions, in an environment of their own; "make test-neighbours" runs them."""
