"""What the host application gave us, and who its users are."""
