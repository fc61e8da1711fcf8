"""What is written for each source: its places and names, what is refused beforehand, and a source with its open sinks."""
