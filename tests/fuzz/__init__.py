"""Bytes of strangers against every parser that reads them."""
