"""What an attacker tries, by class; see SECURITY.md."""
