"""What an attacker gets, by class of attack; :doc:`SECURITY.md` lists the classes."""
