"""Signed masks, and the weights under them, in the forms of other tools; each module is one form.

`weights` always maps names to tensors that are 0 where the mask is 0: the `state_dict()` of a held model, or what
`mask_file.sparse_weights.load_weights` returns. Reading a form returns such a mapping again; its signs are
`SignedMask(sign0(weights))`.
"""
