"""The tables, and what differs between the two databases."""
