"""The rules: every module here holds one, as `RULE`; its docstring says why it matters."""
