"""What connects the program to extensions that a host may have; nothing else needs them."""
