"""Family: scaling laws, one file each. A law is a value and never holds a fit."""
