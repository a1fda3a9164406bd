"""Bilevel search of a supernet: Pseudo Auxiliary Searching and DARTS."""
