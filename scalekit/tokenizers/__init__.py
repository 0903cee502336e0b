"""Family: ways to turn text into tokens, one file each."""
