"""What payment providers say."""
