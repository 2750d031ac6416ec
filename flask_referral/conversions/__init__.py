"""Station 4: payments become rewards, and refunds take them back."""
