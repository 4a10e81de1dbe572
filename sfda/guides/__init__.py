"""Guides: frozen second models, or tables of answers that were made elsewhere. One table a target,
computed once; methods receive the table and never the network (docs/methods/guided.md, section 1).
"""
