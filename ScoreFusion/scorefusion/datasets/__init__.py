"""Which volumes, of whom, in which split (`scorefusion data`). Knows files and people, no networks."""
