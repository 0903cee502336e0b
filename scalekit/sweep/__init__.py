"""From a sweep file to runs: the format, the expansion, the plan."""
