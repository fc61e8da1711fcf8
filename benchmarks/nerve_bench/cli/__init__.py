"""The command `nerve-bench`."""
