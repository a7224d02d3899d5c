"""Another way to run a model's forward pass, where it is quicker and its answers are the same.

`samples` makes up inputs, `backends` hold a way each, `trial` measures and compares, `tuned_file` keeps what was found,
`swap` puts it in the place of the module's own `forward`.
"""
