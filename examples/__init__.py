"""Applications that use flask-referral."""
