"""YAML with positions, validated against models: every mistake of a file at once, where it is."""
