"""What reproduces each number in the docs, one command each."""
