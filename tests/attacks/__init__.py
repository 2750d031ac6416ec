"""What an attacker tries, by class; SECURITY.md lists the classes."""
