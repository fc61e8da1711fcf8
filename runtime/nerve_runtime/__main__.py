"""`python -m nerve_runtime` is `nerve-segment`."""

from nerve_runtime.cli import main

if __name__ == "__main__":
    main()
