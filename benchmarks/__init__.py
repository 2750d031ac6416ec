"""How fast flask-referral is beside the same work written by hand; see README.md here."""
