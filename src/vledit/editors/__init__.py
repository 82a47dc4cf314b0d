"""Editing methods, one file each; `registry.editor("balancedit")` finds them without loading the others."""
