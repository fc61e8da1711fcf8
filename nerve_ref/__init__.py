"""The method in PyTorch: plain, slow and readable, the judge of every other form of it.

Sections and equations (E1 to E9) named in the docstrings are those of `docs/method.md`; what is marked
"ours" there is marked "ours" here and may not be presented as the paper's.
"""
