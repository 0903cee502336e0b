"""Family: formats that documents come in, one file each."""
