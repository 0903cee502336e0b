"""Family: sources of tokens, one file each."""
