"""The live page of a run: `nerve-segment SOURCE --web`. docs/web.md says what it shows and what it refuses.

Only `address` can be imported without the extra `web`.
"""
