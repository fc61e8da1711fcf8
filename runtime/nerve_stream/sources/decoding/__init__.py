"""Live sources are decoded in a process of their own."""
