"""The networks: encoding of columns, tokens, attention, training. The only package of `_core` that needs torch."""

from importlib.util import find_spec

if find_spec("torch") is None:
    raise ImportError("The networks of mttab need torch, which is not installed; run pip install 'mttab[neural]'.")
