"""Networks of the paper that no library that the package depends on has."""
