"""Signed masks and the weights under them in the forms of other tools; each module is one of these forms.

`weights` is everywhere a mapping of name -> tensor with zeros where the mask has them: `model.state_dict()` of a held
model, or `mask_file.sparse_weights.load_weights`. What comes back from a form is such a mapping again; its signs are
`SignedMask(sign0(weights))`.
"""
