"""Family: ways to get runs executed, one file each."""
