"""From a name or a path to an opened network."""
