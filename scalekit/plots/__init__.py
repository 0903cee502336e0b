"""Family: figures, one file each."""
